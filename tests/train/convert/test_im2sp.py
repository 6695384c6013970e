"""A published Im2Sp of raw images against transformers: ids, tied head, and a bundle that says what generate says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, GitForCausalLM

from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError
from im2sp.train.convert.hifigan import convert_hifigan
from im2sp.train.convert.im2sp import convert_im2sp, published_id, published_rows
from im2sp.train.convert.unpickling import CheckpointError
from tests.train.convert.published_files import UNITS, of_raw_images, run_convert, save_im2sp, write_published_files
from tests.train.convert.published_git import IMAGE_TOKENS, POSITIONS, SIDE, generated, random_git
from tests.train.convert.published_hifigan import CONFIG, Reference, write_published

NEVER = [0, 103]  # pad, and the id that no unit has
EMBEDDINGS = "model.git.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def git() -> GitForCausalLM:
    return random_git(1, tied=True)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_published_files(folder, layers=7)
    return folder


@pytest.fixture(scope="module")
def captioner(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    out = tmp_path_factory.mktemp("out") / "converted"
    words = ["im2sp", parts / "raw.ckpt", "--config", parts / "GIT/config.json", "--vocoder", parts / "g_00500000"]
    words += ["--speech-encoder", parts / "HUBERT", "--clusters", parts / "km.bin", "--precision", "fp32"]
    result = run_convert(*words, "-o", out)
    assert result.exit_code == 0, result.output
    return Captioner.from_pretrained(out, threads=1)


def test_rows_move_with_their_units(git: GitForCausalLM, parts: Path) -> None:
    assert [published_id(unit) for unit in (0, 99, 100, 101, 102, 199)] == [1, 100, 101, 104, 105, 202]
    rows = published_rows(UNITS)
    assert rows[:3] == [0, 101, 102]
    assert set(range(203)) - set(rows) == {103}
    decoder = convert_im2sp(parts / "raw.ckpt", parts / "GIT" / "config.json").decoder
    assert decoder.output.weight is decoder.word_embeddings.weight
    assert torch.equal(decoder.word_embeddings.weight, git.output.weight[rows])
    assert torch.equal(decoder.output.bias, git.output.bias[rows])


@pytest.mark.parametrize("beam", [1, 3, 5])
def test_the_bundle_says_what_generate_says(git: GitForCausalLM, captioner: Captioner, beam: int) -> None:
    """By default greedily, and with beams until as many sentences are complete, as in the paper's code."""
    preset = captioner.default_options
    assert (preset.beam, preset.max_repeats, preset.early_stopping, preset.min_tokens) == (1, 0, True, 1)
    options = replace(preset, beam=beam, max_tokens=POSITIONS - 1)
    rows, said, processor = published_rows(UNITS), set(), CLIPImageProcessorPil(size=SIDE, crop_size=SIDE)
    random = np.random.default_rng(0)
    for _ in range(8):
        photo = Image.fromarray(random.integers(0, 255, (3, 4, 3), dtype=np.uint8)).resize((64, SIDE), Image.NEAREST)
        pixels = processor(photo, return_tensors="np")["pixel_values"][0]
        expected = generated(git, torch.from_numpy(pixels), options, NEVER)
        caption = captioner.caption(photo, options)
        ending = [102] if expected[-1] == 102 else []
        assert ending or beam == 1
        assert [101, *(rows[token] for token in caption.tokens), *ending] == expected
        assert caption.attention.shape == (len(caption.tokens), IMAGE_TOKENS)
        assert len(caption.waveform) == caption.durations.sum() * 320
        said.add(tuple(expected))
    assert len(said) >= 6
    card = (captioner.bundle.folder / "README.md").read_text()
    assert card.startswith("# converted 1\n")
    assert "published checkpoints, converted and not trained on" in card


def test_unit_100_can_be_said_though_it_shares_an_id_with_bos(git: GitForCausalLM, parts: Path, tmp_path: Path) -> None:
    bias = git.output.bias.clone()
    bias[101] += 50
    checkpoint = save_im2sp(of_raw_images(git) | {"model.output.bias": bias}, tmp_path / "raw.ckpt")
    decoder = convert_im2sp(checkpoint, parts / "GIT" / "config.json").decoder
    with torch.inference_mode():
        logits = decoder(torch.randn(1, 3, 32), torch.tensor([[1]]), torch.tensor([0]))[0, 0]
    assert logits[3:].argmax() == 100
    assert logits[1] == logits[103]


def test_at_most_511_tokens_follow_bos(git: GitForCausalLM, parts: Path, tmp_path: Path) -> None:
    """And an image tokenizer beside a model of raw images is passed by."""
    positions = {"model.git.embeddings.position_embeddings.weight": torch.randn(600, 24)}
    state = of_raw_images(git) | positions | {"tokenizer.pre_quant.weight": torch.zeros(2, 2)}
    checkpoint, config = save_im2sp(state, tmp_path / "raw.ckpt"), tmp_path / "config.json"
    config.write_text(json.dumps(git.config.to_dict() | {"max_position_embeddings": 600}))
    words = ["im2sp", checkpoint, "--config", config, "--vocoder", parts / "g_00500000", "-o", tmp_path / "out"]
    assert run_convert(*words).exit_code == 0
    found = Bundle.load(tmp_path / "out").config
    assert (found.decoding.max_tokens, found.decoder.max_tokens) == (511, 600)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({EMBEDDINGS: None}, "0 tokens, too few"),
        ({EMBEDDINGS: torch.zeros(50, 24)}, "50 tokens, too few"),
        ({EMBEDDINGS: torch.zeros(203, 24)}, "not tied"),
        ({"model.output.bias": None}, r"lacks output\.bias"),
        ({"model.output.bias": torch.zeros(30)}, r"output\.bias of shape \[30\]"),
    ],
)
def test_checkpoints_that_are_no_im2sp_are_refused(
    git: GitForCausalLM, parts: Path, changes: dict[str, Tensor | None], why: str, tmp_path: Path
) -> None:
    checkpoint = save_im2sp(of_raw_images(git) | changes, tmp_path / "raw.ckpt")
    with pytest.raises(CheckpointError, match=why):
        convert_im2sp(checkpoint, parts / "GIT" / "config.json")


def test_other_mistakes_are_said(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks layers\.3"):
        convert_im2sp(parts / "raw.ckpt")  # it is no git-large
    published = CONFIG | {"num_embeddings": 20}
    convert_hifigan(*write_published(tmp_path, published, Reference(published).state())).save(tmp_path / "twenty")
    for vocoder, more, why in (
        (parts / "g_00500000", ["--codebook", parts / "codebook.ckpt"], "looks at raw images: leave codebook"),
        (parts / "none", [], "none cannot be read: there is no such file"),
        (parts / "HUBERT", [], "config.json"),
        (tmp_path / "twenty", [], "the voice has 20 units, the decoder 200"),
    ):
        words = ["im2sp", parts / "raw.ckpt", "--config", parts / "GIT" / "config.json", "--vocoder", vocoder]
        error = run_convert(*words, *more, "-o", tmp_path / "out").exception
        assert isinstance(error, Im2SpError)
        assert why in str(error)
        assert not list(tmp_path.glob("*out*"))
