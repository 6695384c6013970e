"""A published Im2Sp against transformers: its ids, its tied head, and a bundle that says what generate says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import GitForCausalLM, HubertConfig, HubertModel
from typer.testing import CliRunner, Result

from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.decoding.options import DecodingOptions
from im2sp.errors import Im2SpError
from im2sp.image.loading import load_image, to_pixels
from im2sp.train.cli import app
from im2sp.train.convert.git import CLIP_MEAN, CLIP_STD
from im2sp.train.convert.hifigan import convert_hifigan
from im2sp.train.convert.im2sp import convert_im2sp, published_id, published_rows
from im2sp.train.convert.streams import CheckpointError
from im2sp.train.models.speech_encoder import Clusters, SpeechEncoder
from tests.train.convert.published_git import IMAGE_TOKENS, POSITIONS, SIDE, generated, random_git
from tests.train.convert.published_hifigan import CONFIG, audible, published_state, write_published

UNITS = 200
NEVER = [0, 103]  # pad, and the id that no unit has


@pytest.fixture(scope="module")
def git() -> GitForCausalLM:
    return random_git(1, tied=True)


def write_checkpoint(git: GitForCausalLM, folder: Path, **changes: Tensor | None) -> tuple[Path, Path]:
    """The training framework's file of the paper's code, and the config.json of the GIT below it."""
    state = {f"model.{name}": tensor for name, tensor in git.state_dict().items()}
    state = {name: tensor for name, tensor in (state | changes).items() if tensor is not None}
    folder.mkdir(exist_ok=True)
    torch.save({"epoch": 3, "global_step": 100_000, "state_dict": state}, folder / "last.ckpt")
    git.config.save_pretrained(folder)
    return folder / "last.ckpt", folder / "config.json"


@pytest.fixture(scope="module")
def parts(git: GitForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted vocoder and speech encoder, and the checkpoint."""
    folder = tmp_path_factory.mktemp("parts")
    write_checkpoint(git, folder)
    config = CONFIG | {"num_embeddings": UNITS, "upsample_initial_channel": 32}
    convert_hifigan(*write_published(folder / "published", config, audible(published_state(config)))).save(
        folder / "vocoder"
    )
    hubert = HubertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    centres = np.random.default_rng(0).normal(size=(UNITS, 16))
    SpeechEncoder(HubertModel(hubert), 1, 0, clusters=Clusters.around(centres)).save(folder / "encoder")
    return folder


def convert(parts: Path, out: Path, *more: str) -> Result:
    arguments = ["convert", "im2sp", str(parts / "last.ckpt"), "--config", str(parts / "config.json")]
    return CliRunner().invoke(app, [*arguments, "--vocoder", str(parts / "vocoder"), "-o", str(out), *more])


@pytest.fixture(scope="module")
def captioner(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    out = tmp_path_factory.mktemp("out") / "converted"
    result = convert(parts, out, "--speech-encoder", str(parts / "encoder"), "--precision", "fp32")
    assert result.exit_code == 0, result.output
    return Captioner.from_pretrained(out, threads=1)


def test_ids_are_those_of_the_reference_formats() -> None:
    assert [published_id(unit) for unit in (0, 99, 100, 101, 102, 199)] == [1, 100, 101, 104, 105, 202]
    rows = published_rows(UNITS)
    assert rows[:3] == [0, 101, 102]
    assert len(rows) == 203
    assert set(range(203)) - set(rows) == {103}


def test_rows_move_with_their_units(git: GitForCausalLM, parts: Path) -> None:
    translator = convert_im2sp(parts / "last.ckpt", parts / "config.json").translator
    assert translator.output.weight is translator.word_embeddings.weight
    embeddings, bias = git.output.weight, git.output.bias
    for token, row in ((0, 0), (1, 101), (2, 102), (3, 1), (103, 101), (104, 104), (202, 202)):
        assert torch.equal(translator.word_embeddings.weight[token], embeddings[row])
        assert translator.output.bias[token] == bias[row]


@pytest.mark.parametrize("beam", [1, 5])
def test_the_bundle_says_what_generate_says(git: GitForCausalLM, captioner: Captioner, beam: int) -> None:
    options = DecodingOptions(beam=beam, max_tokens=POSITIONS - 1, max_repeats=2**31)
    rows, said = published_rows(UNITS), set()
    random = np.random.default_rng(0)
    for _ in range(8):
        photo = Image.fromarray(random.integers(0, 255, (3, 3, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.NEAREST)
        pixels = to_pixels(load_image(photo), SIDE, SIDE, CLIP_MEAN, CLIP_STD)
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
    write_checkpoint(git, tmp_path, **{"model.output.bias": bias})
    translator = convert_im2sp(tmp_path / "last.ckpt", tmp_path / "config.json").translator
    with torch.inference_mode():
        logits = translator(torch.randn(1, 3, 32), torch.tensor([[1]]), torch.tensor([0]))[0, 0]
    assert logits[3:].argmax() == 100
    assert logits[1] == logits[103]


def test_the_bundle_hears_units(captioner: Captioner) -> None:
    units = captioner.units(np.random.default_rng(0).normal(size=16_000).astype(np.float32) * 0.1)
    assert units.shape == (49,)
    assert captioner.bundle.config.vocabulary.units == UNITS
    assert captioner.default_options.max_tokens == POSITIONS


def test_at_most_512_tokens_are_said(git: GitForCausalLM, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "vocoder").symlink_to(parts / "vocoder")
    _, config = write_checkpoint(
        git, tmp_path, **{"model.git.embeddings.position_embeddings.weight": torch.randn(600, 24)}
    )
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 600}))
    assert convert(tmp_path, tmp_path / "out").exit_code == 0
    config = Bundle.load(tmp_path / "out").config
    assert (config.decoding.max_tokens, config.decoder.max_tokens) == (512, 600)


def test_half_precision_bundles_are_smaller_and_close(
    git: GitForCausalLM, parts: Path, captioner: Captioner, tmp_path: Path
) -> None:
    assert convert(parts, tmp_path / "half", "--precision", "fp16").exit_code == 0
    half = Captioner.from_pretrained(tmp_path / "half", threads=1)
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
    difference = np.abs(half.encode(photo).keys - captioner.encode(photo).keys)
    assert 0 < difference.max() < 0.05
    assert half.bundle.describe().size < captioner.bundle.describe().size


def test_an_image_tokenizer_beside_the_model_is_left_out(git: GitForCausalLM, tmp_path: Path) -> None:
    checkpoint, config = write_checkpoint(git, tmp_path)
    content: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["tokenizer.pre_quant.weight"] = torch.zeros(2, 2)
    torch.save(content, checkpoint)
    assert convert_im2sp(checkpoint, config).translator.config.vocabulary_size == 203


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


def test_other_mistakes_are_said(git: GitForCausalLM, parts: Path, tmp_path: Path) -> None:
    checkpoint, config = write_checkpoint(git, tmp_path)
    with pytest.raises(CheckpointError, match=r"lacks layers\.3"):
        convert_im2sp(checkpoint)  # it is no git-large
    units = CliRunner().invoke(app, ["convert", "im2sp-units", str(checkpoint), "--config", str(config), "-o", "x"])
    assert "has no token ViT: use `im2sp-lab convert im2sp`" in str(units.exception)
    tokenizer = convert(parts, tmp_path / "out", "--image-tokenizer", str(parts / "vocoder"))
    assert "looks at raw images: leave --image-tokenizer out" in str(tokenizer.exception)
    assert "vocoder holds no model that im2sp can load (there is no such" in str(
        convert(tmp_path, tmp_path / "out").exception
    )
    wrong = convert(parts, tmp_path / "out", "--vocoder", str(parts / "encoder"))
    assert "encoder holds no model that im2sp can load" in str(wrong.exception)
    published = CONFIG | {"num_embeddings": 20}
    convert_hifigan(*write_published(tmp_path / "p", published, published_state(published))).save(tmp_path / "vocoder")
    write_checkpoint(git, tmp_path)
    result = convert(tmp_path, tmp_path / "out")
    assert isinstance(result.exception, Im2SpError)
    assert "the vocoder has 20 units, the translator 200" in str(result.exception)
    assert not list(tmp_path.glob("*out*"))
    assert json.loads(config.read_text())["vocab_size"] == 203
