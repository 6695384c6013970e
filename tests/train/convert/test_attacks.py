"""A malicious file in the place of every file that `im2sp-lab convert` reads, in every format: refused, never run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel
from typer.testing import CliRunner

from im2sp.errors import Im2SpError
from im2sp.train.cli import app
from im2sp.train.convert.checkpoints import read_checkpoint
from im2sp.train.convert.hifigan import convert_hifigan
from im2sp.train.convert.hubert import read_centres
from im2sp.train.convert.streams import CheckpointError
from tests.train.convert.published_git import random_git
from tests.train.convert.published_hifigan import CONFIG, published_state, write_published
from tests.train.convert.test_checkpoints import WRITERS, Attack, Writer
from tests.train.models import published_token_vit, published_vit_vqgan

HUBERT = HubertConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
    num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
)  # fmt: skip
COMMANDS: dict[str, tuple[str, ...]] = {  # what is converted: how, and the files that a pickle may be in
    "hubert": ("hubert {}/hubert --clusters {}/km.bin --layer 1", "hubert/pytorch_model.bin", "km.bin"),
    "hifigan": ("hifigan {}/hifigan/g_00500000 --config {}/hifigan/config.json", "hifigan/g_00500000"),
    "git": ("git {}/git", "git/pytorch_model.bin"),
    "vit-vqgan": ("vit-vqgan {}/tokenizer.ckpt --codebook {}/codebook.ckpt", "tokenizer.ckpt", "codebook.ckpt"),
    "seit": ("seit {}/seit.pth", "seit.pth"),
    "im2sp": ("im2sp {}/raw/last.ckpt --config {}/git/config.json --vocoder {}/vocoder", "raw/last.ckpt"),
    "im2sp-units": (
        "im2sp-units {}/units/last.ckpt --config {}/git/config.json --codebook {}/codebook.ckpt",
        "units/last.ckpt",
        "codebook.ckpt",
    ),
}
READ = [(command, file) for command, (_, *files) in COMMANDS.items() for file in files]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every published file, whole."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    git = random_git(1, tied=True)
    for name, model in (("git", git), ("hubert", HubertModel(HUBERT))):
        model.save_pretrained(folder / name)
        (folder / name / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / name / "pytorch_model.bin")
    np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32).dump(folder / "km.bin")
    convert_hifigan(*write_published(folder / "hifigan", CONFIG, published_state(CONFIG))).save(folder / "vocoder")
    tokenizer = published_vit_vqgan.published_state()
    torch.save(tokenizer, folder / "tokenizer.ckpt")
    torch.save(published_vit_vqgan.published_codebook(), folder / "codebook.ckpt")
    token_vit = published_token_vit.published_state()
    torch.save({"model": token_vit}, folder / "seit.pth")
    raw = {f"model.{name}": tensor for name, tensor in git.state_dict().items()}
    seeing = "model.git.image_encoder.vision_model."
    units = {name: tensor for name, tensor in raw.items() if not name.startswith(seeing)}
    units |= {seeing + name: tensor for name, tensor in token_vit.items()}
    units["model.git.visual_projection.visual_projection.0.weight"] = torch.randn(24, 128)
    units |= {f"tokenizer.{name}": tensor for name, tensor in tokenizer.items()}
    for name, state in (("raw", raw), ("units", units)):
        (folder / name).mkdir()
        torch.save({"state_dict": state}, folder / name / "last.ckpt")
    return folder


def convert(published: Path, command: str, out: Path) -> BaseException | None:
    """What the command ends with."""
    words = COMMANDS[command][0].replace("{}", str(published)).split()
    return CliRunner().invoke(app, ["convert", *words, "-o", str(out)]).exception


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "im2sp"])
def test_the_whole_files_are_converted(published: Path, command: str, tmp_path: Path) -> None:
    """So that what is refused below is refused for the attack; the bundle is made in test_im2sp.py."""
    assert convert(published, command, tmp_path / "out") is None
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("command", "file"), READ)
def test_an_attack_in_any_file_is_refused(
    published: Path, command: str, file: str, write: Writer, tmp_path: Path
) -> None:
    canary, whole = tmp_path / "canary", (published / file).read_bytes()
    try:
        write({"state_dict": {}, "model": {}, "generator": Attack(os.system, f"touch {canary}")}, published / file)
        error = convert(published, command, tmp_path / "out")
    finally:
        (published / file).write_bytes(whole)
    assert isinstance(error, CheckpointError)
    assert "asks to run" in str(error)
    assert file.rpartition("/")[2] in str(error)
    assert not list(tmp_path.iterdir())


def write_npy(value: object, path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.array([value], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("write", [*WRITERS, write_npy])
def test_an_attack_in_a_unit_file_is_refused(write: Writer, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    write(Attack(os.system, f"touch {canary}"), tmp_path / "1_a_0.unit")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "1_a_0.unit")
    assert not canary.exists()


def _as_centres(data: bytes, folder: Path) -> object:
    (folder / "km.npy").write_bytes(data)
    return read_centres(folder / "km.npy")


def _as_safetensors(data: bytes, folder: Path) -> object:
    save_file({"w": torch.zeros(2, 2)}, folder / "km.safetensors")
    (folder / "km.safetensors").write_bytes(data)
    return read_centres(folder / "km.safetensors")


@pytest.mark.parametrize("read", [_as_centres, _as_safetensors])
@pytest.mark.parametrize("pickled", ["alone", "in an array"])
def test_an_attack_where_no_pickle_belongs_is_refused(
    read: Callable[[bytes, Path], object], pickled: str, tmp_path: Path
) -> None:
    """An array of objects is a pickle behind the header of a .npy file."""
    canary, attack = tmp_path / "canary", Attack(os.system, f"touch {tmp_path / 'canary'}")
    if pickled == "alone":
        data = pickle.dumps(attack)
    else:
        write_npy(attack, tmp_path / "attack")
        data = (tmp_path / "attack").read_bytes()
    with pytest.raises(Im2SpError):
        read(data, tmp_path)
    assert not canary.exists()


def test_the_attacks_work(tmp_path: Path) -> None:
    """Read the usual way, each of these files would have run its command."""
    for number, write in enumerate(WRITERS):
        canary = tmp_path / f"canary{number}"
        write(Attack(os.system, f"touch {canary}"), tmp_path / "x")
        if "torch" in write.__name__:
            torch.load(tmp_path / "x", weights_only=False)
        elif "joblib" in write.__name__:
            joblib.load(tmp_path / "x")
        else:
            pickle.loads((tmp_path / "x").read_bytes())
        assert canary.exists()
