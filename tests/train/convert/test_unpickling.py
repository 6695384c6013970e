"""Hostile pickles and containers: refused in one sentence or read as plain values, never run, never without bounds."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.cluster import MiniBatchKMeans

from im2sp.train.convert import checkpoints, unpickling
from im2sp.train.convert.checkpoints import read_checkpoint, read_state_dict
from im2sp.train.convert.unpickling import AttributeBag, CheckpointError
from tests.train.convert.hostile_files import TORCH, WRITERS, Attack, touching
from tests.train.convert.test_checkpoints import Tiny


class Stateful:
    """Runs code in `__setstate__` when it is unpickled the usual way."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["canary"]).touch()


def attacks(canary: Path) -> dict[str, object]:
    touch = f"open({str(canary)!r}, 'w').close()"
    return {
        "system": touching(canary),
        "eval": Attack(eval, touch),
        "exec": Attack(exec, touch),
        "getattr": Attack(getattr, touching(canary), "real"),
        "nested": {"generator": OrderedDict(a=[(touching(canary), 1)])},
        "argument": Attack(np.zeros, Attack(os.mkdir, str(canary))),
    }


def refuse(stream: bytes, why: str, path: Path) -> None:
    path.write_bytes(stream)
    with pytest.raises(CheckpointError, match=why):
        read_checkpoint(path)


@pytest.mark.parametrize("kind", WRITERS)
def test_attacks_work_the_usual_way_and_never_here(kind: str, tmp_path: Path) -> None:
    """`numpy.save` is on no list of harmful names, and yet it does nothing; unknown classes become attribute bags."""
    canary, array, path, write = tmp_path / "canary", tmp_path / "canary.npy", tmp_path / "evil.pt", WRITERS[kind]
    for attack in attacks(canary).values():
        write(attack, path)
        refuse(path.read_bytes(), r"evil\.pt asks to run .*, which no checkpoint needs: get", path)
    write({"call": Attack(np.save, str(array), [1]), "state": Stateful(canary)}, path)
    found = read_checkpoint(path)
    assert all(isinstance(found[name], AttributeBag) for name in ("call", "state"))
    assert found["state"].attribute("canary") == str(canary)
    assert not canary.exists()
    assert not array.exists()
    write(touching(canary), path)
    if kind in TORCH:
        torch.load(path, weights_only=False)
    else:
        joblib.load(path)
    assert canary.exists()


@pytest.mark.parametrize(
    "name", ["collections\nOrderedDict", "torch._utils\n_rebuild_tensor_v2", "torch\nSize", "any\nthing"]
)
@pytest.mark.parametrize("state", [b"}(S'update'\nI1\nu", b"N}(S'update'\nI1\nu\x86"])
def test_names_cannot_be_given_attributes(name: str, state: bytes, tmp_path: Path) -> None:
    """BUILD on a class would change it for everyone; on our own functions it would open the door."""
    refuse(f"c{name}\n".encode() + state + b"b.", "is damaged", tmp_path / "x")


def rewritten_zip(path: Path, change: Callable[[str, bytes], bytes | None], compression: int = 0) -> None:
    with zipfile.ZipFile(path) as archive:
        items = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in items:
            if (new := change(name, data)) is not None:
                archive.writestr(name, new)


def tensor_pickle(key: object = "0", count: int = 6, offset: int = 0, size: object = (2, 3), stride: object = (3, 1)):
    """data.pkl of one tensor of floats, written by hand."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self) -> object:
            return (torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, OrderedDict()))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, key, "cpu", count) if isinstance(value, Storage) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"w": Tensor()})
    return buffer.getvalue()


def test_tensors_beyond_their_data_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    changes: list[dict[str, object]] = [
        {"key": "1"}, {"key": "../../etc/passwd"}, {"count": 7}, {"count": 2**40}, {"count": 2**62}, {"count": -6},
        {"offset": 1}, {"offset": -1}, {"size": (2, 4)}, {"stride": (4, 1)}, {"size": (2**40,), "stride": (0,)},
        {"size": (2**70,), "stride": (0,)}, {"size": (2, 3), "stride": (-3, 1)},
    ]  # fmt: skip
    for change in [{}, *changes]:
        torch.save({"w": torch.arange(6.0)}, path)
        pickled = tensor_pickle(**change)  # type: ignore[arg-type]
        rewritten_zip(path, lambda name, data, new=pickled: new if name.endswith("data.pkl") else data)
        if change:
            refuse(path.read_bytes(), r"beyond its data|is damaged", path)
        else:
            assert torch.equal(read_state_dict(path)["w"], torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    ("change", "compression", "why"),
    [
        (lambda name, data: None if name.endswith("data.pkl") else data, 0, "not one that torch.save wrote"),
        (lambda name, data: None if name.endswith("data/0") else data, 0, "is damaged"),
        (lambda name, data: data[:-1] if name.endswith("data/0") else data, 0, "is damaged"),
        (lambda name, data: data, zipfile.ZIP_DEFLATED, "compressed zip file"),
    ],
)
def test_broken_zip_files_and_bombs_are_refused(
    change: Callable[[str, bytes], bytes | None], compression: int, why: str, tmp_path: Path
) -> None:
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "model.pt")
    rewritten_zip(tmp_path / "model.pt", change, compression)
    refuse((tmp_path / "model.pt").read_bytes(), why, tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"\x80\x04r\xff\xff\xff\x7f.", "is damaged"),  # a memo index of two billion, with nothing to keep
        (b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b".", "is damaged|more memory"),  # an enormous bytearray
        (b"\x80\x05\x96" + (2**36).to_bytes(8, "little") + b"N.", "is damaged"),  # one of 64 GB
        (b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".", "is damaged|more memory"),  # enormous bytes
        (b"]" + b"2" * 200 + b".", "more than 100 pickle operations"),
        (b"0.", "is damaged"),
        (b"\x82\x01.", "is damaged"),
        (b"L" + b"9" * 10_000 + b"L\n.", "is damaged"),
        (b"}" + b")" + b"2\x86" * 60 + b"K\x01s.", "is damaged"),  # a key of nested pairs that takes years to hash
        (b"(" + b")" + b"2\x86" * 60 + b"\x91.", "is damaged"),  # the same in a frozenset
        (
            b"]X" + (10_000).to_bytes(4, "little") + b"a" * 10_000 + b"q\x000("
            + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 100 + b"e.", "over and over",
        ),
    ],
)  # fmt: skip
def test_bombs_and_nonsense_are_refused(
    stream: bytes, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpickling, "OPERATIONS", 100 if "operations" in why else 10_000)
    monkeypatch.setattr(unpickling, "COPIED_BYTES", 100_000)
    refuse(stream, why, tmp_path / "x")
    (tmp_path / "x").write_bytes(b"K\x07r\xff\xff\xff\x7f.")  # a large memo index takes no memory
    assert read_checkpoint(tmp_path / "x") == 7


def test_other_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Tiny()
    module.blocks.append(module.blocks)  # type: ignore[arg-type]
    torch.save(module, tmp_path / "loop.ckpt")
    with pytest.raises(CheckpointError, match="more than 10000 parts"):
        read_state_dict(tmp_path / "loop.ckpt")
    torch.save({"w": torch.arange(6.0)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="more than the 100 that im2sp reads"):
        read_checkpoint(tmp_path / "a.pt", most_bytes=100)
    monkeypatch.setattr(checkpoints, "PICKLE_BYTES", 10)
    with pytest.raises(CheckpointError, match="larger than they may be"):
        read_checkpoint(tmp_path / "a.pt")


def test_an_attack_where_no_pickle_belongs_is_refused(tmp_path: Path) -> None:
    """An array of objects is a pickle behind the header of a .npy file."""
    canary, array, tensors = tmp_path / "canary", tmp_path / "km.npy", tmp_path / "km.safetensors"
    archive = tmp_path / "km.npz"
    np.save(array, np.array([touching(canary)], dtype=object), allow_pickle=True)
    np.savez(archive, np.array([touching(canary)], dtype=object))
    save_file({"w": torch.zeros(2, 2)}, tensors)
    tensors.write_bytes(tensors.read_bytes() + pickle.dumps(touching(canary)))
    for path in (array, archive, tensors):
        refuse(path.read_bytes(), "is damaged", path)
        refuse(pickle.dumps(touching(canary)), "is damaged|asks to run", path)
    assert not canary.exists()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("samples")
    state = {"generator": OrderedDict(a=torch.randn(3, 2), b=torch.arange(4))}
    centres = MiniBatchKMeans(3, n_init=1, random_state=0).fit(np.random.default_rng(0).normal(size=(20, 2)))
    found = {}
    for kind, write in WRITERS.items():
        write(state if kind in TORCH else centres, folder / "x")
        found[kind] = (folder / "x").read_bytes()
    return found


def read_or_refuse(path: Path) -> None:
    """Either there are named tensors, or one sentence says why not; any other exception fails the test."""
    sentence = ""
    try:
        read_state_dict(path)
    except CheckpointError as error:
        sentence = str(error)
    assert sentence.isprintable()


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_changed_and_truncated_files_are_read_or_refused(
    samples: dict[str, bytes], tmp_path: Path, name: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(samples[name])
    refuse(bytes(data[: int(changes[0][0] * len(data))]), "get the file again", tmp_path / "x")
    for place, value in changes:
        data[int(place * len(data))] = value
    (tmp_path / "x").write_bytes(data)
    read_or_refuse(tmp_path / "x")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.sampled_from(sorted(opcode.code for opcode in pickletools.opcodes)), max_size=30).map("".join))
def test_any_opcodes_are_read_or_refused(tmp_path: Path, data: str) -> None:
    (tmp_path / "x").write_bytes(b"(" + data.encode("latin-1") + b"\n0\n.")
    read_or_refuse(tmp_path / "x")
