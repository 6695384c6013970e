"""A recipe: one TOML file -> typed options of a run, and the stages of its kind.

The key `recipe` names the kind: a module of `im2sp.train.recipes` with the dataclass `Recipe` and the list `STAGES`.
"""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from im2sp.errors import Im2SpError
from im2sp.train.parsing import parse

if TYPE_CHECKING:
    from im2sp.train.stages import Stage

KINDS = ("voice", "image_tokenizer", "lexicon", "captioner", "paper")


@dataclass(frozen=True)
class BaseRecipe:
    """Options that all recipes have. A kind adds its sections, which are dataclasses.

    A section with a `seed` has the recipe's, unless it gives its own.
    """

    recipe: str  # one of KINDS
    data: Path  # what the run reads
    runs: Path  # what the run makes: a folder for each stage
    seed: int = 0
    timeout_minutes: float = 60.0  # how long one of several processes waits for another


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
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
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
