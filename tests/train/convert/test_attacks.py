"""A malicious file in the place of every file that `im2sp convert` reads: refused, never run."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from im2sp.train.convert.hubert import read_centres
from im2sp.train.convert.unpickling import CheckpointError
from tests.train.convert.hostile_files import WRITERS, touching
from tests.train.convert.published_files import run_convert, write_published_files

COMMANDS = {  # what is converted: how, and the files that a pickle may be in
    "hubert": ("hubert {}/HUBERT --clusters {}/km.bin --layer 1", "HUBERT/pytorch_model.bin", "km.bin"),
    "hifigan": ("hifigan {}/g_00500000 --config {}/config.json", "g_00500000"),
    "git": ("git {}/GIT", "GIT/pytorch_model.bin"),
    "vit-vqgan": ("vit-vqgan {}/tokenizer.ckpt --codebook {}/codebook.ckpt", "tokenizer.ckpt", "codebook.ckpt"),
    "seit": ("seit {}/SEIT", "SEIT"),
    "raw": ("im2sp {}/raw.ckpt --config {}/GIT/config.json", "raw.ckpt"),
    "units": ("im2sp {}/units.ckpt --config {}/GIT/config.json --codebook {}/codebook.ckpt", "units.ckpt"),
}
READ = [(command, file) for command, (_, *files) in COMMANDS.items() for file in files]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_published_files(folder)
    return folder


def convert(published: Path, command: str, out: Path) -> BaseException | None:
    """What the command ends with."""
    return run_convert(*COMMANDS[command][0].replace("{}", str(published)).split(), "-o", out).exception


@pytest.mark.parametrize(("command", "file"), READ)
def test_an_attack_in_any_file_is_refused(published: Path, command: str, file: str, tmp_path: Path) -> None:
    canary, whole = tmp_path / "canary", (published / file).read_bytes()
    try:
        for write in WRITERS:
            write({"state_dict": {}, "model": {}, "generator": touching(canary)}, published / file)
            error = convert(published, command, tmp_path / "out")
            assert isinstance(error, CheckpointError)
            assert "asks to run" in str(error)
            assert file.rpartition("/")[2] in str(error)
            assert not list(tmp_path.iterdir())
    finally:
        (published / file).write_bytes(whole)


@pytest.mark.parametrize("name", ["km.npy", "km.safetensors", "km.npz"])
@pytest.mark.parametrize("pickled", ["alone", "in an array"])
def test_an_attack_where_no_pickle_belongs_is_refused(name: str, pickled: str, tmp_path: Path) -> None:
    """An array of objects is a pickle behind the header of a .npy file."""
    canary, path = tmp_path / "canary", tmp_path / name
    if pickled == "alone":
        path.write_bytes(pickle.dumps(touching(canary)))
    elif name == "km.npy":
        np.save(path, np.array([touching(canary)], dtype=object), allow_pickle=True)
    elif name == "km.npz":
        np.savez(path, np.array([touching(canary)], dtype=object))
    else:
        save_file({"w": torch.zeros(2, 2)}, path)
        path.write_bytes(path.read_bytes() + pickle.dumps(touching(canary)))
    with pytest.raises(CheckpointError):
        read_centres(path)
    assert not canary.exists()
