"""Published Im2Sp of raw images and of image units against transformers: bundles that say what generate says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import CLIPImageProcessorPil, GitForCausalLM

from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.cli import app
from im2sp.errors import Im2SpError
from im2sp.image.units import ImageUnits
from im2sp.train.convert.im2sp import convert_im2sp, published_id, published_rows
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig, save_vocoder
from tests.train.convert.published_files import (
    UNITS,
    VISION,
    of_image_units,
    of_raw_images,
    run_convert,
    save_im2sp,
    write_published_files,
)
from tests.train.convert.published_git import EOS, IMAGE_TOKENS, POSITIONS, SIDE, generated, random_git
from tests.train.convert.published_image_models import vit_vqgan

NEVER = [0, 103]  # pad, and the id that no unit has
BOS = 101


@pytest.fixture(scope="module")
def git() -> GitForCausalLM:
    return random_git(1, tied=True)


@pytest.fixture(scope="module")
def git_of_units() -> GitForCausalLM:
    return random_git(1, tied=True, sees_units=True)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_published_files(folder, layers=7)
    return folder


def to_bundle(parts: Path, checkpoint: str | Path, out: Path, *more: object) -> str:
    """Run the command that makes a bundle, with weights as they are; return what it prints, or raises."""
    words = ["im2sp", parts / checkpoint, "--config", parts / "GIT" / "config.json", "--precision", "fp32", "-o", out]
    voice = [] if "--vocoder" in more else ["--vocoder", parts / "g_00500000"]
    result = run_convert(*words, *voice, *more)
    assert result.exit_code == 0 or isinstance(result.exception, Im2SpError), result.output
    return str(result.exception or result.output)


@pytest.fixture(scope="module")
def captioner(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    out = tmp_path_factory.mktemp("out") / "converted"
    to_bundle(parts, "raw.ckpt", out, "--speech-encoder", parts / "HUBERT", "--clusters", parts / "km.bin")
    return Captioner.from_pretrained(out, threads=1)


@pytest.fixture(scope="module")
def of_units(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    out = tmp_path_factory.mktemp("out") / "converted"
    said = to_bundle(parts, "units.ckpt", out, "--codebook", parts / "codebook.ckpt")
    assert "a bundle with image units; try im2sp caption PHOTO" in said
    return Captioner.from_pretrained(out, threads=1)


def some_photos(count: int, grid: tuple[int, int], size: tuple[int, int]) -> list[Image.Image]:
    """Few large patches, so that they differ in what a model gets to see."""
    colours = np.random.default_rng(0).integers(0, 255, (count, *grid, 3), dtype=np.uint8)
    return [Image.fromarray(photo).resize(size, Image.Resampling.NEAREST) for photo in colours]


def published_ids(tokens: np.ndarray, expected: list[int]) -> list[int]:
    """Our tokens as ids of BERT with units around them, between the ends of an expected sentence."""
    units = [int(token) - 3 for token in tokens]
    return [BOS, *(unit + 1 if unit < 101 else unit + 3 for unit in units), *([EOS] if expected[-1] == EOS else [])]


def test_rows_move_with_their_units(git: GitForCausalLM, parts: Path) -> None:
    assert [published_id(unit) for unit in (0, 99, 100, 101, 102, 199)] == [1, 100, 101, 104, 105, 202]
    rows = published_rows(UNITS)
    assert rows[:3] == [0, 101, 102]
    assert set(range(203)) - set(rows) == {103}
    _, decoder = convert_im2sp(parts / "raw.ckpt", parts / "GIT" / "config.json")
    assert decoder.output.weight is decoder.word_embeddings.weight
    assert torch.equal(decoder.word_embeddings.weight, git.output.weight[rows])
    assert torch.equal(decoder.output.bias, git.output.bias[rows])


@pytest.mark.parametrize(("beam", "least"), [(1, 1), (3, 1), (5, 4)])
def test_the_bundle_says_what_generate_says(git: GitForCausalLM, captioner: Captioner, beam: int, least: int) -> None:
    """By default greedily, and with beams until as many sentences are complete, as in the paper's code."""
    preset = captioner.default_options
    assert (preset.beam, preset.max_repeats, preset.early_stopping, preset.min_tokens) == (1, 0, True, 1)
    options = replace(preset, beam=beam, min_tokens=least, max_tokens=POSITIONS - 1)
    said, processor = set(), CLIPImageProcessorPil(size=SIDE, crop_size=SIDE)
    for photo in some_photos(8, (3, 4), (64, SIDE)):
        pixels = processor(photo, return_tensors="np")["pixel_values"][0]
        expected = generated(git, torch.from_numpy(pixels), options, NEVER)
        assert beam == 1 or expected[-1] == EOS
        caption = captioner.caption(photo, options)
        assert published_ids(caption.tokens, expected) == expected
        assert caption.attention.shape == (len(caption.tokens), IMAGE_TOKENS)
        assert len(caption.waveform) == caption.durations.sum() * 320
        said.add(tuple(expected))
    assert len(said) >= 5
    card = (captioner.bundle.folder / "README.md").read_text()
    assert card.startswith("# converted 1\n")
    assert "published checkpoints, converted and not trained on" in card


@pytest.mark.parametrize("beam", [1, 5])
def test_a_bundle_of_units_says_what_generate_says(
    git_of_units: GitForCausalLM, of_units: Captioner, beam: int
) -> None:
    """From the pixels on: transformers makes the units and the sentence."""
    options = replace(of_units.default_options, beam=beam, max_tokens=POSITIONS - 1)
    said = set()
    for photo in some_photos(8, (3, 3), (24, 24)):
        (units,) = vit_vqgan().units(torch.from_numpy(np.asarray(photo).transpose(2, 0, 1)[None] / 255))
        found = ImageUnits(of_units.tokenize(photo), of_units.image_tokenizer)
        assert found.units.tolist() == units.tolist()
        vectors = vit_vqgan().codes[units].reshape(6, 6, 8)[1:5, 1:5].permute(2, 0, 1)
        expected = generated(git_of_units, vectors, options, NEVER)
        assert beam == 1 or expected[-1] == EOS
        caption = of_units.caption(found, options)
        assert published_ids(caption.tokens, expected) == expected
        np.testing.assert_array_equal(of_units.caption(photo, options).waveform, caption.waveform)
        said.add(tuple(expected))
    assert len(said) >= 4


def test_stored_units_are_spoken_by_the_command_line(of_units: Captioner, tmp_path: Path) -> None:
    photos, table = [str(tmp_path / f"{number}.png") for number in range(3)], str(tmp_path / "units.parquet")
    for photo, path in zip(some_photos(3, (3, 3), (24, 24)), photos, strict=True):
        photo.save(path)
    for arguments in (
        ["tokenize", *photos, "-o", table], ["caption", table, "-o", str(tmp_path / "said")],
        ["caption", *photos, "-o", str(tmp_path / "seen")],
        ["reconstruct", table, "-o", str(tmp_path / "pictures")],
    ):  # fmt: skip
        words = [*arguments, "--model", str(of_units.bundle.folder)]
        assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    for number in range(3):
        said, seen = (list((tmp_path / name).glob(f"{number}*.wav")) for name in ("said", "seen"))
        assert said[0].read_bytes() == seen[0].read_bytes()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3


def test_all_smaller_precisions_make_the_same_units(of_units: Captioner, parts: Path, tmp_path: Path) -> None:
    for precision in ("fp16", "int8"):
        to_bundle(
            parts, "units.ckpt", tmp_path / precision, "--codebook", parts / "codebook.ckpt", "--precision", precision
        )
    half, eight = (Captioner.from_pretrained(tmp_path / name, threads=1) for name in ("fp16", "int8"))
    assert half.image_tokenizer.makes_the_units_of(eight.image_tokenizer)
    units = of_units.tokenize(some_photos(1, (3, 3), (24, 24))[0])
    keys = [each.encode(ImageUnits(units, each.image_tokenizer)).keys for each in (of_units, half, eight)]
    largest = np.abs(keys[0]).max()
    assert 0 < np.abs(keys[1] - keys[0]).max() < 0.01 * largest
    assert 0 < np.abs(keys[2] - keys[0]).max() < 0.1 * largest


def test_the_tokenizer_may_come_in_its_own_file(
    git_of_units: GitForCausalLM, parts: Path, of_units: Captioner, tmp_path: Path
) -> None:
    """Units are to be the same; SeiT's last norm, which captioning leaves out, may be missing, too."""
    missing = [f"tokenizer.{name}" for name in vit_vqgan().published()] + [f"{VISION}norm.weight", f"{VISION}norm.bias"]
    checkpoint = save_im2sp(of_image_units(git_of_units) | dict.fromkeys(missing), tmp_path / "last.ckpt")
    more = ["--codebook", parts / "codebook.ckpt", "--image-tokenizer", parts / "tokenizer.ckpt"]
    to_bundle(parts, checkpoint, tmp_path / "out", *more)
    one, other = of_units.bundle, Bundle.load(tmp_path / "out")
    assert one.image_tokenizer.makes_the_units_of(other.image_tokenizer)
    assert one.checksums["decoder.onnx"] == other.checksums["decoder.onnx"]


def test_unit_100_can_be_said_though_it_shares_an_id_with_bos(git: GitForCausalLM, parts: Path, tmp_path: Path) -> None:
    bias = git.output.bias.clone()
    bias[101] += 50
    checkpoint = save_im2sp(of_raw_images(git) | {"model.output.bias": bias}, tmp_path / "raw.ckpt")
    _, decoder = convert_im2sp(checkpoint, parts / "GIT" / "config.json")
    with torch.inference_mode():
        logits = decoder(torch.randn(1, 3, 32), torch.tensor([[1]]), torch.tensor([0]))[0, 0]
    assert logits[3:].argmax() == 100
    assert logits[1] == logits[103]


def test_at_most_511_tokens_follow_bos(git: GitForCausalLM, parts: Path, tmp_path: Path) -> None:
    """An image tokenizer beside a model of raw images is passed by; repeats are spoken where they are wanted."""
    positions = {"model.git.embeddings.position_embeddings.weight": torch.randn(600, 24)}
    state = of_raw_images(git) | positions | {"tokenizer.pre_quant.weight": torch.zeros(2, 2)}
    checkpoint, config = save_im2sp(state, tmp_path / "raw.ckpt"), tmp_path / "config.json"
    config.write_text(json.dumps(git.config.to_dict() | {"max_position_embeddings": 600}))
    to_bundle(parts, checkpoint, tmp_path / "out", "--config", config)
    found = Bundle.load(tmp_path / "out").config
    assert (found.decoding.max_tokens, found.decoder.max_tokens) == (511, 600)
    assert found.vocabulary.keep_repeats
    to_bundle(parts, checkpoint, tmp_path / "once", "--config", config, "--remove-repeats")
    assert not Bundle.load(tmp_path / "once").config.vocabulary.keep_repeats


def test_other_mistakes_are_said(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks layers\.3"):
        convert_im2sp(parts / "raw.ckpt")  # it is no git-large
    sizes = VocoderConfig(units=20, width=8, feed_forward=8, slow_blocks=1, fast_blocks=1)
    save_vocoder(UnitVocoder(sizes), DurationPredictor(sizes), tmp_path / "twenty")
    for checkpoint, more, why in (
        ("raw.ckpt", ["--codebook", parts / "codebook.ckpt"], "looks at raw images: leave codebook"),
        ("raw.ckpt", ["--vocoder", parts / "none"], "none cannot be read: there is no such file"),
        ("raw.ckpt", ["--vocoder", parts / "HUBERT"], "config.json"),
        ("raw.ckpt", ["--vocoder", tmp_path / "twenty"], "the voice has 20 units, the decoder 200"),
        ("units.ckpt", [], "give --codebook"),
    ):
        assert why in to_bundle(parts, checkpoint, tmp_path / "out", *more)
        assert not list(tmp_path.glob("*out*"))
