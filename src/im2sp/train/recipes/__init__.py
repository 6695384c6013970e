"""A recipe: one TOML file -> typed options of a run, and the stages of its kind.

The key `recipe` names the kind: a module of this package with the dataclass `Recipe` (its options), `STAGES` (in order)
and `smoke` (a tiny run of all).
"""

from __future__ import annotations

import importlib
import logging
import tomllib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from im2sp.errors import Im2SpError
from im2sp.train.parsing import parse
from im2sp.train.stages import BaseRecipe, Stage, run_stages

log = logging.getLogger(__name__)

KINDS = ("voice", "image_tokenizer", "lexicon", "captioner", "paper")


def read_recipe(
    path: Path, data: Path | None = None, runs: Path | None = None
) -> tuple[BaseRecipe, Sequence[Stage[Any]]]:
    """Read a recipe; return its options and the stages of its kind.

    Args:
        data, runs: folders in place of the recipe's.

    Raises:
        Im2SpError: it cannot be read, its kind is unknown, or it has a key or a value that its kind does not know.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Im2SpError(f"the recipe {path} cannot be read: {error}") from error
    kind = values.get("recipe")
    if kind not in KINDS:
        raise Im2SpError(f"the recipe {path} has recipe = {kind!r}: choose one of {', '.join(KINDS)}")
    module = importlib.import_module(f"im2sp.train.recipes.{kind}")
    values |= {name: str(folder) for name, folder in (("data", data), ("runs", runs)) if folder is not None}
    for name, section in get_type_hints(module.Recipe).items():
        if is_dataclass(section) and "seed" in {field.name for field in fields(section)}:
            values.setdefault(name, {}).setdefault("seed", values.get("seed", 0))
    return parse(module.Recipe, values, f"the recipe {path}"), module.STAGES


def run_smoke(folder: Path) -> None:
    """Run a tiny recipe of each kind, on generated data: that proves that stages run, not that anything is learned.

    The kinds run in order, in one folder each; a later kind may use what an earlier one made.

    `smoke(folder)` of a kind's module writes the data that its recipe reads, and returns the recipe.
    """
    for kind in KINDS:
        module = importlib.import_module(f"im2sp.train.recipes.{kind}")
        log.info("smoke: recipe %s in %s", kind, folder / kind)
        run_stages(module.smoke(folder), module.STAGES)
