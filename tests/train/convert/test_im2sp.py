"""A published Im2Sp of raw images against transformers: ids, tied head, and a bundle that says what generate says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, GitForCausalLM

from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError
from im2sp.train.convert.hifigan import convert_hifigan
from im2sp.train.convert.im2sp import convert_im2sp, published_id, published_rows
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.models.git import GitDecoder
from tests.train.convert.published_files import UNITS, of_raw_images, run_convert, write_published_files
from tests.train.convert.published_git import IMAGE_TOKENS, POSITIONS, SIDE, generated, random_git
from tests.train.convert.published_hifigan import CONFIG, published_state, write_published

NEVER = [0, 103]  # pad, and the id that no unit has


@pytest.fixture(scope="module")
def git() -> GitForCausalLM:
    return random_git(1, tied=True)


def write_checkpoint(git: GitForCausalLM, folder: Path, **changes: Tensor | None) -> tuple[Path, Path]:
    """The training framework's file of the paper's code, and the config.json of the GIT below it."""
    state = {name: tensor for name, tensor in (of_raw_images(git) | changes).items() if tensor is not None}
    torch.save({"epoch": 3, "global_step": 100_000, "state_dict": state}, folder / "raw.ckpt")
    git.config.save_pretrained(folder / "GIT")
    return folder / "raw.ckpt", folder / "GIT" / "config.json"


@pytest.fixture(scope="module")
def parts(git: GitForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted vocoder and speech encoder, and the checkpoint."""
    folder = tmp_path_factory.mktemp("parts")
    write_published_files(folder)
    run_convert("hifigan", folder / "g_00500000", "--config", folder / "config.json", "-o", folder / "vocoder")
    words = ["hubert", folder / "HUBERT", "--clusters", folder / "km.bin", "--layer", 1]
    run_convert(*words, "-o", folder / "encoder")
    return folder


def convert(folder: Path, out: Path, vocoder: Path | None, *more: object) -> Result:
    voice = [] if vocoder is None else ["--vocoder", vocoder]
    words = ["im2sp", folder / "raw.ckpt", "--config", folder / "GIT" / "config.json", "-o", out]
    return run_convert(*words, *voice, *more)


@pytest.fixture(scope="module")
def captioner(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    out = tmp_path_factory.mktemp("out") / "converted"
    more = ["--speech-encoder", parts / "encoder", "--precision", "fp32"]
    result = convert(parts, out, parts / "vocoder", *more)
    assert result.exit_code == 0, result.output
    return Captioner.from_pretrained(out, threads=1)


def test_ids_are_those_of_the_reference_formats() -> None:
    assert [published_id(unit) for unit in (0, 99, 100, 101, 102, 199)] == [1, 100, 101, 104, 105, 202]
    rows = published_rows(UNITS)
    assert rows[:3] == [0, 101, 102]
    assert len(rows) == 203
    assert set(range(203)) - set(rows) == {103}


def test_rows_move_with_their_units(git: GitForCausalLM, parts: Path) -> None:
    decoder = convert_im2sp(parts / "raw.ckpt", parts / "GIT" / "config.json").decoder
    assert decoder.output.weight is decoder.word_embeddings.weight
    embeddings, bias = git.output.weight, git.output.bias
    for token, row in ((0, 0), (1, 101), (2, 102), (3, 1), (103, 101), (104, 104), (202, 202)):
        assert torch.equal(decoder.word_embeddings.weight[token], embeddings[row])
        assert decoder.output.bias[token] == bias[row]


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


def test_unit_100_can_be_said_though_it_shares_an_id_with_bos(git: GitForCausalLM, parts: Path, tmp_path: Path) -> None:
    bias = git.output.bias.clone()
    bias[101] += 50
    decoder = convert_im2sp(*write_checkpoint(git, tmp_path, **{"model.output.bias": bias})).decoder
    with torch.inference_mode():
        logits = decoder(torch.randn(1, 3, 32), torch.tensor([[1]]), torch.tensor([0]))[0, 0]
    assert logits[3:].argmax() == 100
    assert logits[1] == logits[103]


def test_at_most_511_tokens_follow_bos(git: GitForCausalLM, parts: Path, tmp_path: Path) -> None:
    _, config = write_checkpoint(
        git, tmp_path, **{"model.git.embeddings.position_embeddings.weight": torch.randn(600, 24)}
    )
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 600}))
    assert convert(tmp_path, tmp_path / "out", parts / "vocoder").exit_code == 0
    config = Bundle.load(tmp_path / "out").config
    assert (config.decoding.max_tokens, config.decoder.max_tokens) == (511, 600)


def test_an_image_tokenizer_beside_the_model_is_left_out(git: GitForCausalLM, tmp_path: Path) -> None:
    checkpoint, config = write_checkpoint(git, tmp_path)
    content: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["tokenizer.pre_quant.weight"] = torch.zeros(2, 2)
    torch.save(content, checkpoint)
    assert convert_im2sp(checkpoint, config).decoder.config.vocabulary_size == 203


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model.git.embeddings.word_embeddings.weight": None}, r"lacks model\.git\.embeddings\.word_embeddings"),
        ({"model.git.embeddings.word_embeddings.weight": torch.zeros(50, 24)}, "50 tokens, too few"),
        ({"model.git.embeddings.word_embeddings.weight": torch.zeros(203, 24)}, "not tied"),
        ({"model.output.bias": None}, r"lacks output\.bias"),
        ({"model.output.bias": torch.zeros(30)}, r"output\.bias of shape \[30\]"),
    ],
)
def test_checkpoints_that_are_no_im2sp_are_refused(
    git: GitForCausalLM, changes: dict[str, Tensor | None], why: str, tmp_path: Path
) -> None:
    checkpoint, config = write_checkpoint(git, tmp_path, **changes)
    with pytest.raises(CheckpointError, match=why):
        convert_im2sp(checkpoint, config)


def test_without_a_vocoder_there_are_models_to_train(parts: Path, tmp_path: Path) -> None:
    result = convert(parts, tmp_path / "out", None)
    assert "out: decoder, vision\n" in result.output
    assert GitDecoder.load(tmp_path / "out" / "decoder").config.vocabulary_size == 203


def test_other_mistakes_are_said(git: GitForCausalLM, parts: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks layers\.3"):
        convert_im2sp(parts / "raw.ckpt")  # it is no git-large
    published = CONFIG | {"num_embeddings": 20}
    convert_hifigan(*write_published(tmp_path, published, published_state(published))).save(tmp_path / "twenty")
    for vocoder, more, why in (
        (parts / "vocoder", ["--image-tokenizer", parts], "looks at raw images: leave --image-tokenizer out"),
        (tmp_path / "none", [], "none cannot be read: there is no such file"),
        (parts / "encoder", [], "encoder holds no model that im2sp can load"),
        (tmp_path / "twenty", [], "the voice has 20 units, the decoder 200"),
    ):
        error = convert(parts, tmp_path / "out", vocoder, *more).exception
        assert isinstance(error, Im2SpError)
        assert why in str(error)
        assert not list(tmp_path.glob("*out*"))


def test_the_model_card_says_where_the_weights_are_from(captioner: Captioner) -> None:
    card = (captioner.bundle.folder / "README.md").read_text()
    assert card.startswith("# converted 1\n")
    assert "published checkpoints, converted and not trained on" in card
    assert "Flickr8k" not in card
