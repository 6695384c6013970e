"""Reading checkpoints: what torch, joblib, numpy and pickle write comes back equal."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.cluster import MiniBatchKMeans
from torch import nn

from im2sp.train.convert.checkpoints import read_checkpoint, read_matrix, read_state_dict
from im2sp.train.convert.unpickling import AttributeBag, CheckpointError
from tests.train.convert.hostile_files import TORCH, WRITERS


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.blocks = nn.ModuleList([nn.Conv1d(2, 2, 3), nn.BatchNorm1d(2)])
        self.register_buffer("table", torch.arange(5))
        self.register_buffer("passing", torch.arange(2), persistent=False)
        self.options = {"rate": 0.1}


class Stateless(nn.Module):
    """A part whose library pickles it in its own way, as some versions of einops do."""

    def __getstate__(self) -> object:
        return "b h w -> h w b"


def equal(found: object, expected: object) -> bool:
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(equal(found[key], expected[key]) for key in expected)
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, np.ndarray):
        return found.dtype == expected.dtype and np.array_equal(found, expected)
    return found == expected


@pytest.mark.parametrize("kind", TORCH)
def test_state_dicts_come_back(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(6, 4)
    value = {
        "step": 7, "lr": 0.5, "name": "unité", "flags": (True, None, [1, -(2**40)]), "names": {"a", "b"},
        "generator": OrderedDict(
            transposed=base.T, view=base[2:5, 1], tied=base, half=torch.randn(4).half(),
            brain=torch.randn(4).bfloat16(), counts=torch.arange(9), mask=torch.tensor([True, False]),
            empty=torch.zeros(0, 3), scalar=torch.tensor(3.5), array=torch.arange(3).numpy(),
        ),
    }  # fmt: skip
    WRITERS[kind](value, tmp_path / "model.pt")
    assert equal(read_checkpoint(tmp_path / "model.pt"), value)
    tensors = read_state_dict(tmp_path / "model.pt", "generator")
    assert tensors["tied"].untyped_storage().data_ptr() == tensors["view"].untyped_storage().data_ptr()


@pytest.mark.parametrize("kind", TORCH)
def test_pickled_modules_are_read_by_path_without_their_class(kind: str, tmp_path: Path) -> None:
    module = Tiny()
    module.add_module("stateless", Stateless())
    WRITERS[kind](module, tmp_path / "tokenizer.ckpt")
    found = read_checkpoint(tmp_path / "tokenizer.ckpt")
    assert isinstance(found, AttributeBag)
    assert found.kind == f"{__name__}.Tiny"
    assert found.attribute("options") == {"rate": 0.1}
    tensors = read_state_dict(tmp_path / "tokenizer.ckpt")
    assert equal(dict(sorted(tensors.items())), dict(sorted(module.state_dict().items())))


@pytest.mark.parametrize("protocol", [None, 0, 2, 5])
def test_k_means_files_give_their_centres(protocol: int | None, tmp_path: Path) -> None:
    """Of joblib, or pickles of all protocols."""
    points = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    model = MiniBatchKMeans(n_clusters=7, n_init=1, random_state=0).fit(points)
    model.feature_names_in_ = np.array(["a", "b"], dtype=object)
    if protocol is None:
        joblib.dump(model, tmp_path / "km.bin")
    else:
        (tmp_path / "km.bin").write_bytes(pickle.dumps(model, protocol=protocol))
    found = read_checkpoint(tmp_path / "km.bin")
    assert isinstance(found, AttributeBag)
    assert found.attribute("n_clusters") == 7
    centres = read_matrix(tmp_path / "km.bin", "centres", "cluster_centers_")
    assert equal(centres.numpy(), model.cluster_centers_)


@pytest.mark.parametrize("name", ["km.npy", "km.npz", "km.safetensors", "km.pt", "km.pkl", "dict.pt"])
def test_matrices_come_as_arrays_too(name: str, tmp_path: Path) -> None:
    rows, path = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), tmp_path / name
    if name == "dict.pt":  # as public repositories have it
        torch.save({"_n_threads": 4, "cluster_centers_": torch.from_numpy(rows)}, path)
    elif name == "km.npy":
        np.save(path, rows)
    elif name == "km.npz":
        np.savez_compressed(path, cluster_centers_=rows)
    elif name == "km.pt":
        torch.save(torch.from_numpy(rows), path)
    elif name == "km.pkl":
        rows.dump(path)
    else:
        save_file({"weight": rows}, path)
    assert equal(read_matrix(path, "centres", "cluster_centers_").numpy(), rows)


def test_arrays_of_every_layout_come_back(tmp_path: Path) -> None:
    array = np.arange(3, dtype=np.uint8)
    value = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "flags": np.array([True, False]),
        "shared": array, "again": array, "objects": np.array(["a", None], dtype=object), "size": 3,
    }  # fmt: skip
    for kind in ("pickle", "joblib"):
        WRITERS[kind](value, tmp_path / "arrays")
        found = read_checkpoint(tmp_path / "arrays")
        objects = found.pop("objects")
        assert not isinstance(objects, np.ndarray) or objects.size == 0  # stay unread
        assert equal(found, {name: part for name, part in value.items() if name != "objects"})
    WRITERS["pickle"](np.arange(4, dtype=">f8"), tmp_path / "arrays")
    with pytest.raises(CheckpointError, match="big-endian"):
        read_checkpoint(tmp_path / "arrays")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"mpd": {}, "msd": {}}, r"has no 'generator' \(a dict of 'mpd', 'msd'\)"),
        ({"generator": {}}, r"holds no named tensors \(a dict of nothing\)"),
        ({"generator": {"a": "text"}}, "has str at 'a' where a tensor should be"),
        ({"generator": AttributeBag()}, "holds no named tensors"),
    ],
)
def test_files_without_named_tensors_are_refused(value: object, why: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=why):
        read_state_dict(tmp_path / "a.pt", "generator")


def test_missing_files_and_folders_are_said(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.pt", "there is no such file"), (tmp_path, "it is a folder")):
        with pytest.raises(CheckpointError, match=why):
            read_checkpoint(path)
    for name in ("a.safetensors", "a.npy", "a.pt"):
        for content in (b"", b"nonsense", b"PK\x03\x04nonsense"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(CheckpointError, match="is damaged, or no checkpoint"):
                read_checkpoint(tmp_path / name)
