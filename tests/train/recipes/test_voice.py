"""The recipe of a voice: tiny runs from end to end, published parts, and the recipes in the repository."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.data.unit_table import iterate_unit_tables
from im2sp.train.models.speech_encoder import SpeechEncoder
from im2sp.train.models.unit_hifigan import UnitHifigan, UnitHifiganConfig
from im2sp.train.models.unit_vocoder import load_vocoder
from im2sp.train.recipes import read_recipe
from im2sp.train.recipes.voice import SPEAKERS, STAGES, Recipe, smoke
from im2sp.train.stages import run_stages
from im2sp.train.tasks.hifigan import HifiganTraining

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*/*.toml"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe whose stages are done."""
    recipe = smoke(tmp_path_factory.mktemp("voice"))
    run_stages(recipe, STAGES)
    return recipe


def test_recordings_become_a_voice(trained: Recipe) -> None:
    encoder = SpeechEncoder.load(trained.runs / "speech_encoder")
    vocoder, durations = load_vocoder(trained.runs / "vocoder")
    rows = list(iterate_unit_tables(trained.runs / "units", "train"))
    assert encoder.units == vocoder.config.units == 16
    assert {len(row.speech_units) for row in rows} == {50}
    with torch.inference_mode():
        units = torch.from_numpy(rows[0].speech_units.astype(np.int64))[None]
        assert vocoder(units).shape == (1, 16_000)
        assert durations(units).shape == units.shape
    assert encoder.layer == 2  # without phones the middle one of the upper half
    assert not list(trained.runs.rglob("checkpoint.pt"))
    assert not (trained.runs / "vocoder" / "clips.arrow").exists()


def test_a_published_encoder_and_a_hifigan(trained: Recipe, tmp_path: Path) -> None:
    """Published parts are named instead of trained; the HiFi-GAN has a voice for each speaker."""
    for number, path in enumerate(sorted(trained.data.glob("*.wav"))):
        target = tmp_path / "data" / ("zoe", "adam")[number % 2] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    recipe = replace(
        trained,
        data=tmp_path / "data",
        runs=tmp_path / "runs",
        speech_encoder=replace(trained.speech_encoder, source="published", folder=str(trained.runs / "speech_encoder")),
        vocoder=replace(trained.vocoder, kind="hifigan"),
        hifigan=UnitHifiganConfig(width=8, channels=32, block_kernels=(3,), block_dilations=((1,),), duration_width=8),
        hifigan_training=HifiganTraining(steps=1, batch=2, segment_frames=5, discriminator_channels=128),
    )
    run_stages(recipe, STAGES)
    assert (UnitHifigan.load(recipe.runs / "vocoder").config.units, recipe.hifigan.units) == (16, 200)
    assert json.loads((recipe.runs / "vocoder" / SPEAKERS).read_text()) == ["adam", "zoe"]
    assert not (recipe.runs / "durations").exists()
    published = replace(recipe, runs=tmp_path / "published", vocoder=replace(recipe.vocoder, kind="published"))
    with pytest.raises(Im2SpError, match=r"an empty `folder` holds no config\.json"):
        run_stages(published, STAGES)
    vocoder = replace(published.vocoder, folder=str(recipe.runs / "vocoder"))
    run_stages(replace(published, vocoder=vocoder), STAGES)
    assert {path.name for path in published.runs.iterdir()} == {"speech_encoder", "vocoder"}


def test_recordings_of_both_splits_are_needed(trained: Recipe, tmp_path: Path) -> None:
    recipe = replace(trained, runs=tmp_path, recordings=replace(trained.recordings, splits_taken=("train",)))
    with pytest.raises(Im2SpError, match="must hold recordings of both splits"):
        run_stages(recipe, STAGES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipes_of_the_repository_can_be_read(path: Path) -> None:
    recipe, stages = read_recipe(path)
    kind = importlib.import_module(f"im2sp.train.recipes.{recipe.recipe}")
    assert isinstance(recipe, kind.Recipe)
    assert stages is kind.STAGES
