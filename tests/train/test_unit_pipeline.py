"""Image units through the lab: stored units -> a translator -> a bundle in which photo -> units -> speech is one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from im2sp import Captioner
from im2sp.cli import app as im2sp
from im2sp.errors import Im2SpError
from im2sp.image.unit_table import UnitTable
from im2sp.image.units import ImageUnits
from im2sp.train.data.flickr8k import PHOTO_FOLDER
from im2sp.train.models.git import GitDecoder, GitDecoderConfig, ImagePrefix
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.models.semantic_units import SemanticUnits
from im2sp.train.models.token_vit import StemFromUnits, TokenVit
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.recipe import SEMANTIC, VIT_VQGAN, Recipe
from im2sp.train.training.token_translator import TOKEN_VIT
from tests.train.tiny_run import lab, write_tiny_run


def test_a_translator_on_projected_features_says_the_same() -> None:
    torch.manual_seed(0)
    translator = GitDecoder(GitDecoderConfig(20, image_width=12, width=16, layers=2, heads=2, feed_forward=8)).eval()
    with torch.no_grad():
        for weight in translator.image_norm.parameters():
            weight.add_(torch.randn_like(weight) / 2)
    again = translator.on_projected().eval()
    features, tokens = torch.randn(2, 4, 12), torch.randint(3, 20, (2, 5))
    with torch.inference_mode():
        seen = SemanticUnits.like(translator, 1, 4).project(features)
        wanted, found = (model(x, tokens, torch.arange(2)) for model, x in ((translator, features), (again, seen)))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run up to the features; do not change what is in it."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write_tiny_run(folder)
    for stage in ("encode", "pretrain", "tune"):
        lab(folder, stage)
    return recipe


def photos_of(run: Recipe) -> list[Path]:
    return sorted((run.data / PHOTO_FOLDER).glob("*.jpg"))


def check_that_tables_say_what_photos_say(bundle: Path, photos: list[Path], out: Path) -> None:
    """`im2sp tokenize`, then `im2sp caption` of the table and of the photos: the same speech."""
    table = out / "units.parquet"
    names, model = [str(photo) for photo in photos], ["--model", str(bundle)]
    for arguments in (
        ["tokenize", *names, "-o", str(table), *model],
        ["caption", str(table), "-o", str(out / "units"), *model],
        ["caption", *names, "-o", str(out / "photos"), *model],
    ):
        done = CliRunner().invoke(im2sp, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    spoken = {path.name: path.read_bytes() for path in (out / "photos").glob("*.wav")}
    assert len(spoken) == len(photos)
    assert {path.name: path.read_bytes() for path in (out / "units").glob("*.wav")} == spoken


def test_unknown_inputs_are_said(tmp_path: Path) -> None:
    done = lab(tmp_path, "translate", "--input", "pixels", catch=True)
    assert done.exit_code == 2
    assert "features, semantic or vit-vqgan" in done.output


def test_semantic_units_from_photos_to_a_bundle(run: Recipe, tmp_path: Path) -> None:
    folder = run.runs.parent
    with pytest.raises(Im2SpError, match="run the stage `semantic-units` first"):
        lab(folder, "translate", "--input", SEMANTIC)
    for arguments in (["semantic-units"], ["translate", "--input", SEMANTIC], ["export", "--input", SEMANTIC]):
        assert lab(folder, *arguments).exit_code == 0
    assert json.loads((run.semantic_units / "report.json").read_text())["bits"] == 4 * 3 * 4
    steps = [
        json.loads(line)["step"] for line in (run.translator(seen=SEMANTIC) / "log.jsonl").read_text().splitlines()
    ]
    assert steps == [3, 6]
    assert not (run.runs / "bundle").exists()

    captioner = Captioner.from_pretrained(run.bundle_of(SEMANTIC), threads=1)
    captioner.graphs.check()
    assert (captioner.image_tokenizer.units, captioner.image_tokenizer.bits) == (12, 48)
    backbone = ImageBackbone.pretrained(run.section("backbone", BackboneConfig), run.tuned_backbone)
    quantiser, translator = SemanticUnits.load(run.semantic_units), GitDecoder.load(run.translator(seen=SEMANTIC))
    photos = photos_of(run)
    pixels = np.stack([captioner.pixels(photo) for photo in photos])
    made = np.stack([captioner.image_units(photo) for photo in photos]).reshape(len(photos), 4, 3)
    with torch.inference_mode():
        units = quantiser(backbone(torch.from_numpy(pixels))).numpy().reshape(made.shape)
        said = quantiser.features(torch.from_numpy(made).flatten(1))
        keys = torch.stack([key for key, _ in translator.prefix(said)]).numpy()
    # All of them here; with the tokenizer's weights as int8, 90 % of the cells and 95 % of the units.
    assert (made == units).all(-1).mean() > 0.97
    for graph in ("image_tokenizer", "image_decoder_prefix"):
        stored = onnx.load(str(run.bundle_of(SEMANTIC) / f"{graph}.onnx")).graph.initializer
        centres = [item for item in stored if np.prod(item.dims) == quantiser.codebooks.numel()]
        assert [item.data_type for item in centres] == [onnx.TensorProto.FLOAT16]
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(centres[0]).ravel(), quantiser.codebooks.flatten())
    for row, photo in enumerate(photos[:3]):
        stored = ImageUnits(made[row].reshape(-1), captioner.image_tokenizer)
        assert np.abs(captioner.encode(stored).keys[:, 0] - keys[:, row]).max() < 0.05 * np.abs(keys).max()
        np.testing.assert_array_equal(captioner.caption(stored).waveform, captioner.caption(photo).waveform)
    check_that_tables_say_what_photos_say(run.bundle_of(SEMANTIC), photos[:4], tmp_path)

    written = run.translator(seen=SEMANTIC) / "model.safetensors"
    before = written.stat().st_mtime_ns
    lab(folder, "translate", "--input", SEMANTIC)  # it is there: nothing is trained again
    assert written.stat().st_mtime_ns == before

    lab(folder, "translate", "--input", SEMANTIC, "--start", "scratch")
    fresh = GitDecoder.load(run.runs / "translate-semantic-scratch").config
    assert (translator.config.image_width, translator.config.normalised) == (64, True)
    assert (fresh.image_width, fresh.normalised) == (64, False)


def test_vit_vqgan_units_from_photos_to_a_bundle(run: Recipe, tmp_path: Path) -> None:
    folder = run.runs.parent
    with pytest.raises(Im2SpError, match="run the stage `token-vit` first"):
        lab(folder, "translate", "--input", VIT_VQGAN)
    stages = (["image-tokenizer"], ["token-vit"], ["translate", "--input", VIT_VQGAN], ["export", "--input", VIT_VQGAN])
    for arguments in stages:
        assert lab(folder, *arguments).exit_code == 0
    table = UnitTable.open(run.vit_vqgan_units / "features" / "flip.parquet")
    assert (table.rows, table.tokenizer.units) == (12, 16)
    out = run.translator(seen=VIT_VQGAN)
    distilled, tuned = TokenVit.load(run.token_vit), TokenVit.load(out / TOKEN_VIT)
    assert not torch.equal(distilled.pos_embed, tuned.pos_embed)

    captioner = Captioner.from_pretrained(run.bundle_of(VIT_VQGAN), threads=1)
    captioner.graphs.check()
    tokenizer, translator = VitVqgan.load(run.image_tokenizer), GitDecoder.load(out)
    stem = StemFromUnits(tokenizer.codebook.weight, tokenizer.config.grid, tuned.config.crop)
    photos = photos_of(run)
    made = np.stack([captioner.image_units(photo) for photo in photos])
    with torch.inference_mode():
        units = tokenizer(torch.from_numpy(np.stack([captioner.pixels(photo) for photo in photos]))).numpy()
        keys, _ = ImagePrefix(torch.nn.Sequential(stem, tuned), translator)(torch.from_numpy(made))
    assert (made == units).mean() > 0.9
    stored = ImageUnits(made[0], captioner.image_tokenizer)
    assert np.abs(captioner.encode(stored).keys[:, 0] - keys[:, 0].numpy()).max() < 0.05 * float(keys.abs().max())
    assert captioner.reconstruct(stored).shape == (64, 64, 3)
    check_that_tables_say_what_photos_say(run.bundle_of(VIT_VQGAN), photos[:2], tmp_path)
