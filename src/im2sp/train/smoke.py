"""Tiny runs of every kind of recipe, on generated data: they prove that stages run, not that anything is learned."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

from im2sp.train.recipes import KINDS
from im2sp.train.stages import run_stages

log = logging.getLogger(__name__)


def run_smoke(folder: Path) -> None:
    """Run the tiny recipe of each kind in order, in one folder each; a later kind may use what an earlier one made.

    `smoke(folder)` of a kind's module writes the data that its recipe reads, and returns the recipe.
    """
    for kind in KINDS:
        module = importlib.import_module(f"im2sp.train.recipes.{kind}")
        log.info("smoke: recipe %s in %s", kind, folder / kind)
        run_stages(module.smoke(folder), module.STAGES)
