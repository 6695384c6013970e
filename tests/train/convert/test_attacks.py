"""A malicious file in the place of every file that `im2sp convert` reads: refused, never run."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from im2sp.train.convert.checkpoints import read_checkpoint
from im2sp.train.convert.unpickling import CheckpointError
from tests.train.convert.hostile_files import WRITERS, touching
from tests.train.convert.published_files import run_convert, write_published_files

COMMANDS = {  # what is converted: how, and the files that a pickle may be in
    "hubert": ("hubert {}/HUBERT --clusters {}/km.bin --layer 1", "HUBERT/pytorch_model.bin", "km.bin"),
    "hifigan": ("hifigan {}/g_00500000 --config {}/config.json", "g_00500000"),
    "git": ("git {}/GIT", "GIT/pytorch_model.bin"),
    "vit-vqgan": ("vit-vqgan {}/tokenizer.ckpt --codebook {}/codebook.ckpt", "tokenizer.ckpt", "codebook.ckpt"),
    "seit": ("seit {}/SEIT", "SEIT"),
    "im2sp": (
        "im2sp {}/units.ckpt --config {}/GIT/config.json --codebook {}/codebook.ckpt --vocoder {}/g_00500000",
        "units.ckpt",
    ),
}
READ = [(command, file) for command, (_, *files) in COMMANDS.items() for file in files]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_published_files(folder)
    return folder


@pytest.mark.parametrize(("command", "file"), READ)
def test_an_attack_in_any_file_is_refused(published: Path, command: str, file: str, tmp_path: Path) -> None:
    canary, whole = tmp_path / "canary", (published / file).read_bytes()
    words = COMMANDS[command][0].replace("{}", str(published)).split()
    try:
        for write in WRITERS:
            write({"state_dict": {}, "model": {}, "generator": touching(canary)}, published / file)
            error = run_convert(*words, "-o", tmp_path / "out").exception
            assert isinstance(error, CheckpointError)
            assert "asks to run" in str(error)
            assert file.rpartition("/")[2] in str(error)
            assert not list(tmp_path.iterdir())
    finally:
        (published / file).write_bytes(whole)


def test_an_attack_where_no_pickle_belongs_is_refused(tmp_path: Path) -> None:
    """An array of objects is a pickle behind the header of a .npy file."""
    canary, array, tensors = tmp_path / "canary", tmp_path / "km.npy", tmp_path / "km.safetensors"
    archive = tmp_path / "km.npz"
    np.save(array, np.array([touching(canary)], dtype=object), allow_pickle=True)
    np.savez(archive, np.array([touching(canary)], dtype=object))
    save_file({"w": torch.zeros(2, 2)}, tensors)
    tensors.write_bytes(tensors.read_bytes() + pickle.dumps(touching(canary)))
    for path in (array, archive, tensors):
        for _ in range(2):
            with pytest.raises(CheckpointError):
                read_checkpoint(path)
            path.write_bytes(pickle.dumps(touching(canary)))
    assert not canary.exists()
