"""A published Im2Sp of image units against transformers with its image encoder replaced, and against the formulas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn
from transformers import GitConfig, GitForCausalLM

from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.cli import app as im2sp
from im2sp.image.units import ImageUnits
from im2sp.train.convert.hifigan import convert_hifigan
from im2sp.train.convert.im2sp import ImageUnitGit, convert_im2sp, published_rows
from im2sp.train.convert.unpickling import CheckpointError
from tests.train.convert.published_files import VISION, VOICE, run_convert
from tests.train.convert.published_git import generated, make_it_end
from tests.train.convert.published_hifigan import audible, published_state, write_published
from tests.train.models import published_token_vit, published_vit_vqgan

UNITS, POSITIONS = 200, 32
NEVER = [0, 103]  # pad, and the id that no unit has
PIXELS = 24  # a side
TOKEN_VIT = published_token_vit.CONFIG  # 4 x 4 units, of the 6 x 6 that the tokenizer gives


class ReplacedEncoder(nn.Module):
    """What stands at `git.image_encoder` of the reference code: the published formulas of the token ViT."""

    def forward(self, vectors: Tensor, **_: object) -> SimpleNamespace:
        features = published_token_vit.features(published_token_vit.published_state(), vectors.double().numpy())
        return SimpleNamespace(last_hidden_state=torch.from_numpy(features).float())


@pytest.fixture(scope="module")
def git() -> GitForCausalLM:
    torch.manual_seed(1)
    vision = {"hidden_size": TOKEN_VIT.width, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = GitConfig(
        vision_config=vision | {"image_size": 32, "patch_size": 16},
        vocab_size=UNITS + 3,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
    )
    git = GitForCausalLM(settings).eval()
    with torch.no_grad():
        for name, parameter in git.named_parameters():
            if "orm" not in name:
                parameter.normal_(std=0.4)
    git.git.image_encoder = ReplacedEncoder()
    git.output.weight = git.git.embeddings.word_embeddings.weight
    make_it_end(git.eval(), (8, 4, 4))
    return git


def write_checkpoint(git: GitForCausalLM, folder: Path, **changes: Tensor | None) -> dict[str, Path]:
    """The training framework's file with the tokenizer in it, the codebook beside it, and the config of the GIT."""
    state = {f"model.{name}": tensor for name, tensor in git.state_dict().items()}
    state |= {VISION + name: tensor for name, tensor in published_token_vit.published_state().items()}
    state |= {f"tokenizer.{name}": tensor for name, tensor in published_vit_vqgan.published_state().items()}
    state = {name: tensor for name, tensor in (state | changes).items() if tensor is not None}
    torch.save({"epoch": 3, "state_dict": state}, folder / "last.ckpt")
    torch.save(published_vit_vqgan.published_codebook(), folder / "codebook.ckpt")
    git.config.save_pretrained(folder)
    return {
        "checkpoint": folder / "last.ckpt", "config": folder / "config.json", "codebook": folder / "codebook.ckpt"
    }  # fmt: skip


def test_the_tokenizer_and_the_last_norm_may_be_missing(git: GitForCausalLM, tmp_path: Path) -> None:
    norm = "model.git.image_encoder.vision_model.norm"
    files = write_checkpoint(git, tmp_path, **{f"{norm}.weight": None, f"{norm}.bias": None})
    model = convert_im2sp(files["checkpoint"], files["config"])
    assert isinstance(model, ImageUnitGit)
    assert model.tokenizer is None
    vectors = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        expected = git.git.image_encoder(vectors).last_hidden_state
        assert (model.token_vit(vectors) - expected).abs().max() < 1e-5 * expected.abs().max()
    model.save(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["decoder", "token_vit"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model.git.image_encoder.vision_model.cls_token": None}, "lacks cls_token"),
        ({"model.git.visual_projection.visual_projection.0.weight": torch.zeros(24, 64)}, r"of shape \[24, 64\]"),
        ({"model.git.image_encoder.vision_model.embeddings.class_embedding": torch.zeros(4)}, "unknown 'embeddings"),
        ({"model.extra": torch.zeros(4)}, r"unknown '\.?extra'"),
        ({"tokenizer.pre_quant.bias": None}, r"lacks pre_quant\.bias"),
        ({"model.output.bias": None}, r"lacks output\.bias"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(
    git: GitForCausalLM, changes: dict[str, Tensor | None], why: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=why):
        convert_im2sp(**write_checkpoint(git, tmp_path, **changes))


def test_parts_that_do_not_belong_together_are_refused(git: GitForCausalLM, tmp_path: Path) -> None:
    files = write_checkpoint(git, tmp_path)
    content: dict[str, Any] = torch.load(files["checkpoint"], weights_only=True)
    small = replace(published_vit_vqgan.CONFIG, image_size=12)
    state = {name: value for name, value in content["state_dict"].items() if not name.startswith("tokenizer.")}
    tokenizer = published_vit_vqgan.published_state(small)
    torch.save({"state_dict": state | {f"tokenizer.{k}": v for k, v in tokenizer.items()}}, files["checkpoint"])
    with pytest.raises(CheckpointError, match="3 x 3 units of 8 numbers for a token ViT of 4 x 4"):
        convert_im2sp(**files)
    torch.save({"state_dict": state}, files["checkpoint"])
    with pytest.raises(CheckpointError, match="has no image tokenizer"):
        convert_im2sp(**files)


@pytest.fixture(scope="module")
def parts(git: GitForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with what belongs to it, and a converted vocoder."""
    folder = tmp_path_factory.mktemp("parts")
    write_checkpoint(git, folder)
    published = write_published(folder / "published", VOICE, audible(published_state(VOICE)))
    convert_hifigan(*published).save(folder / "vocoder")
    return folder


def to_bundle(parts: Path, out: Path, *more: str) -> Result:
    """Run the command that makes a bundle."""
    words = ["im2sp", parts / "last.ckpt", "--config", parts / "config.json", "--vocoder", parts / "vocoder"]
    return run_convert(*words, "-o", out, *more)


@pytest.fixture(scope="module")
def bundle(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "converted"
    result = to_bundle(parts, out, "--codebook", str(parts / "codebook.ckpt"), "--precision", "fp32")
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
    """From the pixels on: the published formulas make the units, transformers the sentence."""
    captioner = Captioner.from_pretrained(bundle, threads=1)
    options = replace(captioner.default_options, beam=beam, max_tokens=POSITIONS - 1)
    codebook = published_vit_vqgan.published_codebook().double().numpy()
    rows, said = published_rows(UNITS), set()
    for photo in some_photos(8):
        pixels = np.asarray(photo).transpose(2, 0, 1)[None] / 255
        before = published_vit_vqgan.before_codes(published_vit_vqgan.published_state(), pixels)
        units = published_vit_vqgan.units(before, codebook)[0]
        found = ImageUnits(captioner.tokenize(photo), captioner.image_tokenizer)
        assert found.units.tolist() == units.tolist()
        vectors = codebook[units].reshape(6, 6, 8)[1:5, 1:5].transpose(2, 0, 1)
        expected = generated(git, torch.from_numpy(vectors).float(), options, NEVER)
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
        more = ["--codebook", str(parts / "codebook.ckpt"), "--precision", precision]
        assert to_bundle(parts, tmp_path / precision, *more).exit_code == 0
    half, eight = (Captioner.from_pretrained(tmp_path / name, threads=1) for name in ("fp16", "int8"))
    assert half.image_tokenizer.makes_the_units_of(eight.image_tokenizer)
    whole, photo = Captioner.from_pretrained(bundle, threads=1), some_photos(1)[0]
    keys = [each.encode(ImageUnits(whole.tokenize(photo), each.image_tokenizer)).keys for each in (whole, half, eight)]
    largest = np.abs(keys[0]).max()
    assert 0 < np.abs(keys[1] - keys[0]).max() < 0.01 * largest
    assert 0 < np.abs(keys[2] - keys[0]).max() < 0.1 * largest


def test_the_tokenizer_may_come_in_its_own_file(git: GitForCausalLM, parts: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "vocoder").symlink_to(parts / "vocoder")
    without = {f"tokenizer.{name}": None for name in published_vit_vqgan.published_state()}
    files = write_checkpoint(git, tmp_path, **without)
    torch.save(published_vit_vqgan.published_state(), tmp_path / "tokenizer.ckpt")
    words = ["vit-vqgan", tmp_path / "tokenizer.ckpt", "--codebook", files["codebook"]]
    run_convert(*words, "-o", tmp_path / "tokenizer")
    one = Bundle.load(bundle)
    for tokenizer, more in (("tokenizer", []), ("tokenizer.ckpt", ["--codebook", str(files["codebook"])])):
        words = ["--image-tokenizer", str(tmp_path / tokenizer), "--precision", "fp32", *more]
        result = to_bundle(tmp_path, tmp_path / f"of {tokenizer}", *words)
        assert result.exit_code == 0, result.output
        other = Bundle.load(tmp_path / f"of {tokenizer}")
        assert one.image_tokenizer.makes_the_units_of(other.image_tokenizer)
        assert one.checksums["decoder.onnx"] == other.checksums["decoder.onnx"]


def test_a_bundle_needs_what_makes_the_units(git: GitForCausalLM, parts: Path, tmp_path: Path) -> None:
    assert "a bundle needs what makes them: give --codebook" in str(to_bundle(parts, tmp_path / "out").exception)
    for folder in (tmp_path, parts / "tokenizer.ckpt"):  # --codebook belongs to a file, and a file needs it
        more = ["--codebook", str(parts / "codebook.ckpt")] if folder.is_dir() else []
        assert to_bundle(parts, tmp_path / "out", "--image-tokenizer", str(folder), *more).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_the_two_kinds_of_im2sp_are_told_apart(git: GitForCausalLM, tmp_path: Path) -> None:
    files = write_checkpoint(git, tmp_path)
    content: dict[str, Any] = torch.load(files["checkpoint"], weights_only=True)
    state = {name: value for name, value in content["state_dict"].items() if ".blocks." not in name}
    torch.save({"state_dict": state}, files["checkpoint"])
    with pytest.raises(CheckpointError, match="looks at raw images, which need no codebook"):
        convert_im2sp(**files)
