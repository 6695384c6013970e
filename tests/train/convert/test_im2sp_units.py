"""A published Im2Sp of image units against transformers' GIT with transformers' ViT in place of its image encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor
from transformers import GitForCausalLM

from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.cli import app as im2sp
from im2sp.image.units import ImageUnits
from im2sp.train.convert.im2sp import convert_im2sp, published_rows
from im2sp.train.convert.unpickling import CheckpointError
from tests.train.convert.published_files import (
    UNITS,
    VISION,
    of_image_units,
    run_convert,
    save_im2sp,
    write_published_files,
)
from tests.train.convert.published_git import POSITIONS, generated, random_git
from tests.train.convert.published_image_models import (
    before_codes,
    codebook_rows,
    nearest,
    token_vit_state,
    vit_vqgan_state,
)

NEVER = [0, 103]  # pad, and the id that no unit has
PIXELS = 24  # a side
WITHOUT_TOKENIZER: dict[str, Tensor | None] = {f"tokenizer.{name}": None for name in vit_vqgan_state()}


@pytest.fixture(scope="module")
def git() -> GitForCausalLM:
    return random_git(1, tied=True, sees_units=True)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_published_files(folder)
    return folder


def to_bundle(parts: Path, checkpoint: Path, out: Path, *more: object) -> Result:
    """Run the command that makes a bundle."""
    words = ["im2sp", checkpoint, "--config", parts / "GIT" / "config.json", "--vocoder", parts / "g_00500000"]
    return run_convert(*words, "-o", out, *more)


@pytest.fixture(scope="module")
def bundle(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "converted"
    codebook = parts / "codebook.ckpt"
    result = to_bundle(parts, parts / "units.ckpt", out, "--codebook", codebook, "--precision", "fp32")
    assert result.exit_code == 0, result.output
    assert "a bundle with image units; try im2sp tokenize PHOTO" in result.output
    return out


def some_photos(count: int) -> list[Image.Image]:
    """Few large patches, so that they differ in what the token ViT gets to see."""
    random = np.random.default_rng(0)
    grids = random.integers(0, 255, (count, 3, 3, 3), dtype=np.uint8)
    return [Image.fromarray(grid).resize((PIXELS, PIXELS), Image.Resampling.NEAREST) for grid in grids]


@pytest.mark.parametrize("beam", [1, 5])
def test_the_bundle_says_what_generate_says(git: GitForCausalLM, bundle: Path, beam: int) -> None:
    """From the pixels on: transformers makes the units and the sentence."""
    captioner = Captioner.from_pretrained(bundle, threads=1)
    options = replace(captioner.default_options, beam=beam, max_tokens=POSITIONS - 1)
    rows, said = published_rows(UNITS), set()
    for photo in some_photos(8):
        pixels = torch.from_numpy(np.asarray(photo).transpose(2, 0, 1)[None] / 255)
        (units,) = nearest(before_codes(pixels))
        found = ImageUnits(captioner.tokenize(photo), captioner.image_tokenizer)
        assert found.units.tolist() == units.tolist()
        vectors = codebook_rows()[units].reshape(6, 6, 8)[1:5, 1:5].permute(2, 0, 1)
        expected = generated(git, vectors, options, NEVER)
        caption = captioner.caption(found, options)
        ending = [102] if expected[-1] == 102 else []
        assert ending or beam == 1
        assert [101, *(rows[token] for token in caption.tokens), *ending] == expected
        np.testing.assert_array_equal(captioner.caption(photo, options).waveform, caption.waveform)
        said.add(tuple(expected))
    assert len(said) >= 4


def test_stored_units_are_spoken_by_the_command_line(bundle: Path, tmp_path: Path) -> None:
    for number, photo in enumerate(some_photos(3)):
        photo.save(tmp_path / f"{number}.png")
    photos, table = [str(tmp_path / f"{number}.png") for number in range(3)], str(tmp_path / "units.parquet")
    model, run = ["--model", str(bundle)], CliRunner()
    for arguments in (
        ["tokenize", *photos, "-o", table], ["caption", table, "-o", str(tmp_path / "said")],
        ["caption", *photos, "-o", str(tmp_path / "seen")],
        ["reconstruct", table, "-o", str(tmp_path / "pictures")],
    ):  # fmt: skip
        assert run.invoke(im2sp, [*arguments, *model], catch_exceptions=False).exit_code == 0
    for number in range(3):
        said, seen = (list((tmp_path / name).glob(f"{number}*.wav")) for name in ("said", "seen"))
        assert said[0].read_bytes() == seen[0].read_bytes()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3


def test_all_smaller_precisions_make_the_same_units(bundle: Path, parts: Path, tmp_path: Path) -> None:
    for precision in ("fp16", "int8"):
        more = ["--codebook", parts / "codebook.ckpt", "--precision", precision]
        assert to_bundle(parts, parts / "units.ckpt", tmp_path / precision, *more).exit_code == 0
    half, eight = (Captioner.from_pretrained(tmp_path / name, threads=1) for name in ("fp16", "int8"))
    assert half.image_tokenizer.makes_the_units_of(eight.image_tokenizer)
    whole, photo = Captioner.from_pretrained(bundle, threads=1), some_photos(1)[0]
    keys = [each.encode(ImageUnits(whole.tokenize(photo), each.image_tokenizer)).keys for each in (whole, half, eight)]
    largest = np.abs(keys[0]).max()
    assert 0 < np.abs(keys[1] - keys[0]).max() < 0.01 * largest
    assert 0 < np.abs(keys[2] - keys[0]).max() < 0.1 * largest


def test_the_tokenizer_may_come_in_its_own_file(git: GitForCausalLM, parts: Path, bundle: Path, tmp_path: Path) -> None:
    """Units are to be the same; SeiT's last norm, which captioning leaves out, may be missing, too."""
    norms: dict[str, Tensor | None] = {f"{VISION}norm.{kind}": None for kind in ("weight", "bias")}
    checkpoint = save_im2sp(of_image_units(git) | WITHOUT_TOKENIZER | norms, tmp_path / "last.ckpt")
    more = ["--codebook", parts / "codebook.ckpt", "--precision", "fp32"]
    assert "has no image tokenizer: give" in str(to_bundle(parts, checkpoint, tmp_path / "out", *more).exception)
    result = to_bundle(parts, checkpoint, tmp_path / "out", *more, "--image-tokenizer", parts / "tokenizer.ckpt")
    assert result.exit_code == 0, result.output
    one, other = Bundle.load(bundle), Bundle.load(tmp_path / "out")
    assert one.image_tokenizer.makes_the_units_of(other.image_tokenizer)
    assert one.checksums["decoder.onnx"] == other.checksums["decoder.onnx"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({f"{VISION}cls_token": None}, "lacks cls_token"),
        ({"model.git.visual_projection.visual_projection.0.weight": torch.zeros(24, 64)}, r"of shape \[24, 64\]"),
        ({f"{VISION}embeddings.class_embedding": torch.zeros(4)}, "unknown 'embeddings"),
        ({"model.extra": torch.zeros(4)}, "unknown 'extra'"),
        ({"tokenizer.pre_quant.bias": None}, r"lacks pre_quant\.bias"),
        (
            {f"tokenizer.{part}coder.{part}_pos_embedding": torch.zeros(1, 9, 128) for part in ("en", "de")},
            "3 x 3 units of 8 numbers for a token ViT of 4 x 4",
        ),
        (
            {f"{VISION}{name}": None for name in token_vit_state() if name.startswith("blocks.")},
            "looks at raw images: leave codebook",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(
    git: GitForCausalLM, parts: Path, changes: dict[str, Tensor | None], why: str, tmp_path: Path
) -> None:
    checkpoint = save_im2sp(of_image_units(git) | changes, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=why):
        convert_im2sp(checkpoint, parts / "GIT" / "config.json", parts / "codebook.ckpt")


def test_a_bundle_needs_what_makes_the_units(parts: Path, tmp_path: Path) -> None:
    assert "give --codebook" in str(to_bundle(parts, parts / "units.ckpt", tmp_path / "out").exception)
    assert not list(tmp_path.iterdir())
