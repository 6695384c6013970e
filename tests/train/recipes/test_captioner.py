"""The tiny captioner recipe runs from photos to a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from im2sp.train.models.image_units import ImageUnits
from im2sp.train.models.unit_captioner import UnitCaptioner
from im2sp.train.recipes import read_recipe
from im2sp.train.recipes.captioner import CAPTIONER, REPORT, STAGES, UNITS, Recipe, smoke
from im2sp.train.stages import run_stages


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the smoke recipe once."""
    recipe = smoke(tmp_path_factory.mktemp("captioner"))
    run_stages(recipe, STAGES)
    return recipe.runs


def test_every_held_out_photo_is_described_and_scored(runs: Path) -> None:
    captions = json.loads((runs / REPORT / f"{CAPTIONER}.json").read_text())
    assert len(captions) == 3 + 2 + 1
    report = json.loads((runs / REPORT / "report.json").read_text())
    assert set(report[CAPTIONER]) == {"flickr8k", "coco", "things"}
    assert report[CAPTIONER]["coco"]["photos"] == 2


def test_the_captioner_sees_units_of_the_quantiser(runs: Path) -> None:
    quantiser = ImageUnits.load(runs / UNITS)
    model = UnitCaptioner.load(runs / CAPTIONER)
    assert torch.equal(model.tagger.image_units.codebooks, quantiser.codebooks)
    assert json.loads((runs / UNITS / "report.json").read_text())["bits"] == quantiser.config.bits


def test_the_committed_recipe_is_read() -> None:
    recipe, stages = read_recipe(Path("recipes/captioner/recipe.toml"))
    assert isinstance(recipe, Recipe)
    assert recipe.image_units.bits <= 1200
    assert [stage.name for stage in stages][-1] == "report"
