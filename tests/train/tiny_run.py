"""A run of the smoke recipe as it stands before image units come in: what takes long to train is there, untrained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import HubertModel
from typer.testing import CliRunner, Result

from im2sp.train.cli import app
from im2sp.train.data.flickr8k import read_captions
from im2sp.train.data.tiny_flickr8k import write_tiny_flickr8k
from im2sp.train.data.unit_table import UnitRow, write_unit_table
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.models.speech_encoder import Clusters, SpeechEncoder, edge_padding, small_hubert_config
from im2sp.train.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig, save_vocoder
from im2sp.train.recipe import Recipe
from im2sp.train.stages.units import learn_subwords

RECIPE = Path(__file__).parents[2] / "recipes/flickr8k/recipe.toml"
SPEECH_UNITS = 20


def places(folder: Path) -> list[str]:
    """Options of `im2sp-lab` for a run in a folder."""
    return ["--smoke", "--recipe", str(RECIPE), "--data", str(folder / "data"), "--runs", str(folder / "runs")]


def lab(folder: Path, *arguments: str, catch: bool = False) -> Result:
    """`im2sp-lab` with these arguments on the run in a folder; what it raises is raised unless caught."""
    return CliRunner().invoke(app, [*arguments, *places(folder)], catch_exceptions=catch)


def write_tiny_run(folder: Path) -> Recipe:
    """Data, unit tables, subwords, speech encoder, vocoder and a finished translator; features are not there yet."""
    recipe = Recipe.read(RECIPE.with_name("smoke.toml"), folder / "data", folder / "runs")
    write_tiny_flickr8k(recipe.data)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    for split in ("train", "dev"):
        rows = [
            UnitRow(c.image_id, f"{c.image_id}#{number}", _speech(random), split, "nobody", 0.3, c.text)
            for number, c in enumerate(read_captions(recipe.data, (split,)))
        ]
        write_unit_table(recipe.units / f"{split}-0000.parquet", rows, {"units": SPEECH_UNITS})
    subwords = learn_subwords(recipe.units, recipe.subword_file, SPEECH_UNITS, SPEECH_UNITS + 4)
    hubert = small_hubert_config(layers=1, width=32, heads=2)
    centres = random.normal(size=(SPEECH_UNITS, 32)).astype(np.float32)
    encoder = SpeechEncoder(HubertModel(hubert), 1, edge_padding(hubert), clusters=Clusters.around(centres))
    encoder.save(recipe.speech_encoder)
    sizes = recipe.section("vocoder_sizes", VocoderConfig, units=SPEECH_UNITS)
    save_vocoder(UnitVocoder(sizes), DurationPredictor(sizes), recipe.vocoder)
    config = recipe.section("translator", GitDecoderConfig, vocabulary_size=subwords.vocabulary_size)
    translator = GitDecoder(config)
    with torch.no_grad():
        for weight in translator.parameters():  # fresh weights say the same about every photo
            if weight.dim() > 1:
                weight.mul_(4)
    translator.save(recipe.translator())
    return recipe


def _speech(random: np.random.Generator) -> np.ndarray:
    return random.integers(SPEECH_UNITS, size=int(random.integers(6, 15))).astype(np.uint16)
