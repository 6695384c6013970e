"""Reading checkpoints: what torch, joblib and pickle write comes back equal; what is hostile never runs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import pickletools
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans, MiniBatchKMeans
from torch import nn

from im2sp.train.convert import checkpoints
from im2sp.train.convert.checkpoints import read_checkpoint
from im2sp.train.convert.pickles import Record
from im2sp.train.convert.state_dicts import state_dict_of
from im2sp.train.convert.streams import CheckpointError, Limits

Writer = Callable[[object, Path], None]


def torch_zip(value: object, path: Path) -> None:
    torch.save(value, path)


def torch_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def plain_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=4))


def joblib_plain(value: object, path: Path) -> None:
    joblib.dump(value, path)


def joblib_zlib(value: object, path: Path) -> None:
    joblib.dump(value, path, compress=3)


TORCH_WRITERS = [torch_zip, torch_legacy]
WRITERS: list[Writer] = [*TORCH_WRITERS, plain_pickle, joblib_plain, joblib_zlib]


class Attack:
    """Runs a call when it is unpickled the usual way."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


class Stateful:
    """Hands its state to `__setstate__` when it is unpickled the usual way."""

    canary = ""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["canary"]).touch()


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.blocks = nn.ModuleList([nn.Conv1d(2, 2, 3), nn.BatchNorm1d(2)])
        self.register_buffer("table", torch.arange(5))
        self.register_buffer("passing", torch.arange(2), persistent=False)
        self.options = {"rate": 0.1}


def attacks(canary: Path) -> dict[str, object]:
    touch = f"open({str(canary)!r}, 'w').close()"
    return {
        "system": Attack(os.system, f"touch {canary}"),
        "eval": Attack(eval, touch),
        "exec": Attack(exec, touch),
        "getattr": Attack(getattr, Attack(os.system, f"touch {canary}"), "real"),
        "nested": {"generator": OrderedDict(a=[(Attack(os.system, f"touch {canary}"), 1)])},
        "argument": Attack(np.zeros, Attack(os.mkdir, str(canary))),
    }


def equal(found: object, expected: object) -> bool:
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        return list(found) == list(expected) and all(equal(found[key], expected[key]) for key in expected)
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray)
        return found.dtype == expected.dtype and np.array_equal(found, expected)
    return found == expected


@pytest.mark.parametrize("write", TORCH_WRITERS)
def test_state_dicts_come_back(write: Writer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(6, 4)
    value = {
        "step": 7,
        "lr": 0.5,
        "name": "unité",
        "flags": (True, None, [1, -(2**40)]),
        "names": {"a", "b"},
        "generator": OrderedDict(
            plain=torch.randn(3, 2),
            transposed=base.T,
            view=base[2:5, 1],
            tied=base,
            half=torch.randn(4).half(),
            brain=torch.randn(4).bfloat16(),
            counts=torch.arange(9),
            mask=torch.tensor([True, False]),
            empty=torch.zeros(0, 3),
            scalar=torch.tensor(3.5),
            parameter=nn.Parameter(torch.randn(2)).data,
        ),
    }
    write(value, tmp_path / "model.pt")
    found = read_checkpoint(tmp_path / "model.pt")
    assert equal(found, value)
    tensors = state_dict_of(found, tmp_path, "generator")
    assert tensors["tied"].untyped_storage().data_ptr() == tensors["view"].untyped_storage().data_ptr()


@pytest.mark.parametrize("write", TORCH_WRITERS)
def test_pickled_modules_are_read_by_path_without_their_class(write: Writer, tmp_path: Path) -> None:
    module = Tiny()
    write(module, tmp_path / "tokenizer.ckpt")
    found = read_checkpoint(tmp_path / "tokenizer.ckpt")
    assert isinstance(found, Record)
    assert str(found.kind) == f"{__name__}.Tiny"
    assert found.attribute("options") == {"rate": 0.1}
    tensors = state_dict_of(found, tmp_path)
    assert equal(dict(sorted(tensors.items())), dict(sorted(module.state_dict().items())))


@pytest.mark.parametrize("write", TORCH_WRITERS)
def test_unit_files_come_back(write: Writer, tmp_path: Path) -> None:
    units = np.array([5, 5, 199, 0], dtype=np.int64)
    write(units, tmp_path / "a.unit")
    assert equal(read_checkpoint(tmp_path / "a.unit"), units)


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
@pytest.mark.parametrize(
    "write",
    [
        plain_pickle,
        joblib_plain,
        joblib_zlib,
        lambda value, path: joblib.dump(value, path, compress=("gzip", 3)),
        lambda value, path: joblib.dump(value, path, compress=("bz2", 3)),
        lambda value, path: joblib.dump(value, path, compress=("xz", 3)),
        lambda value, path: joblib.dump(value, path, compress=("lzma", 3)),
        lambda value, path: path.write_bytes(pickle.dumps(value, protocol=0)),
        lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)),
        lambda value, path: path.write_bytes(pickle.dumps(value, protocol=5)),
    ],
)
def test_k_means_files_give_their_centres(kind: type, write: Writer, tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    model = kind(n_clusters=7, n_init=1, random_state=0).fit(points)
    write(model, tmp_path / "km.bin")
    found = read_checkpoint(tmp_path / "km.bin")
    assert isinstance(found, Record)
    assert found.kind.name == kind.__name__
    assert equal(found.attribute("cluster_centers_"), model.cluster_centers_)


def test_arrays_of_every_layout_come_back(tmp_path: Path) -> None:
    value = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(4, dtype=">f8"),
        "scalar": np.float64(2.5),
        "flags": np.array([True, False]),
        "shared": (array := np.arange(3, dtype=np.uint8)),
        "again": array,
    }
    for write in (plain_pickle, joblib_plain):
        write(value, tmp_path / "arrays")
        assert equal(read_checkpoint(tmp_path / "arrays"), value)


def test_arrays_of_objects_stay_unread(tmp_path: Path) -> None:
    plain_pickle({"names": np.array(["a", None], dtype=object), "size": 3}, tmp_path / "x")
    found = read_checkpoint(tmp_path / "x")
    assert isinstance(found, dict)
    assert isinstance(found["names"], Record)
    assert found["size"] == 3


@pytest.mark.parametrize("name", list(attacks(Path())))
@pytest.mark.parametrize("write", WRITERS)
def test_attacks_are_refused_and_never_run(write: Writer, name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    write(attacks(canary)[name], tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt asks to run .*, which no checkpoint needs: get"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not canary.exists()


@pytest.mark.parametrize("write", WRITERS)
def test_setstate_of_a_class_is_never_called(write: Writer, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    write(Stateful(canary), tmp_path / "evil.pt")
    found = read_checkpoint(tmp_path / "evil.pt")
    assert isinstance(found, Record)
    assert found.attribute("canary") == str(canary)
    assert not canary.exists()
    with pytest.raises(CheckpointError, match="no named tensors"):
        state_dict_of(found, tmp_path / "evil.pt")


@pytest.mark.parametrize("write", WRITERS)
def test_unknown_functions_become_records(write: Writer, tmp_path: Path) -> None:
    """`numpy.save` would write a file; it is not on any list, and yet nothing happens."""
    canary = tmp_path / "canary.npy"
    write({"x": Attack(np.save, str(canary), [1])}, tmp_path / "evil.pt")
    found = read_checkpoint(tmp_path / "evil.pt")
    assert isinstance(found, dict)
    assert isinstance(found["x"], Record)
    assert not canary.exists()


def test_names_cannot_be_given_attributes(tmp_path: Path) -> None:
    """BUILD on a class would poison it for everyone; on our own tables it would open the door."""
    for module, name in (("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("any", "thing")):
        stream = f"c{module}\n{name}\n}}(S'update'\nI1\nub.".encode()
        (tmp_path / "x").write_bytes(stream)
        with pytest.raises(CheckpointError, match="not a whole pickle"):
            read_checkpoint(tmp_path / "x")


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


def test_hand_written_tensor_is_read(tmp_path: Path) -> None:
    """The negative tests below change one thing each of a file that is fine."""
    path = tmp_path / "model.pt"
    torch.save({"w": torch.arange(6.0)}, path)
    rewritten_zip(path, lambda name, data: tensor_pickle() if name.endswith("data.pkl") else data)
    found = read_checkpoint(path)
    assert equal(found, {"w": torch.arange(6.0).reshape(2, 3)})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"key": "1"}, "does not hold"),
        ({"key": "../../etc/passwd"}, "does not hold"),
        ({"key": 0}, "unknown way"),
        ({"count": 7}, "size of its data"),
        ({"count": 2**40}, "larger than the file"),
        ({"count": -6}, "unknown way"),
        ({"offset": 1}, "beyond its data"),
        ({"offset": -1}, "not a whole pickle|damaged"),
        ({"size": (2, 4)}, "beyond its data"),
        ({"stride": (4, 1)}, "beyond its data"),
        ({"size": (2**40,), "stride": (0,)}, "beyond its data"),
        ({"size": (2**70,), "stride": (0,)}, "not a whole pickle|damaged"),
        ({"size": (2, 3), "stride": (-3, 1)}, "not a whole pickle|damaged"),
    ],
)
def test_tensors_beyond_their_data_are_refused(change: dict[str, object], why: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.arange(6.0)}, path)
    pickled = tensor_pickle(**change)  # type: ignore[arg-type]
    rewritten_zip(path, lambda name, data: pickled if name.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError, match=why):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda name, data: None if name.endswith("data.pkl") else data, "not one that torch wrote"),
        (lambda name, data: None if name.endswith("data/0") else data, "does not hold"),
        (lambda name, data: b"big" if name.endswith("byteorder") else data, "big-endian"),
        (lambda name, data: data[:-1] if name.endswith("data/0") else data, "size of its data"),
    ],
)
def test_broken_zip_files_are_refused(change: Callable[[str, bytes], bytes | None], why: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.arange(6.0)}, path)
    rewritten_zip(path, change)
    with pytest.raises(CheckpointError, match=why):
        read_checkpoint(path)


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    torch.save({"w": torch.zeros(1_000_000)}, path)
    rewritten_zip(path, lambda name, data: data, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="compressed zip file"):
        read_checkpoint(path)


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_bombs_are_refused(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "km.bin").write_bytes(compress(bytes(4_000_000)))
    with pytest.raises(CheckpointError, match="unpacks to more than 1000000 bytes"):
        read_checkpoint(tmp_path / "km.bin", Limits(inflated_bytes=1_000_000))


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"\x80\x04r\xff\xff\xff\x7f.", "not a whole pickle"),  # a memo index of two billion, with nothing to keep
        (b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b".", "not a whole pickle"),  # an enormous bytearray
        (b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".", "not a whole pickle"),  # enormous bytes
        (b"]" + b"2" * 200 + b".", "more than 100 pickle operations"),
        (b"h\x05.", "not a whole pickle"),
        (b"0.", "not a whole pickle"),
        (b"Pkey\n.", "outside its pickle"),
        (b"\x82\x01.", "EXT1"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"L" + b"9" * 10_000 + b"L\n.", "not a whole pickle"),
        (b"", "not a whole pickle"),
        (b"hello", "not a whole pickle"),
    ],
)
def test_memo_bombs_and_nonsense_are_refused(stream: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(stream)
    with pytest.raises(CheckpointError, match=why):
        read_checkpoint(tmp_path / "x", Limits(operations=100))


def test_a_large_memo_index_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"K\x07r\xff\xff\xff\x7f.")
    assert read_checkpoint(tmp_path / "x") == 7


def test_keys_that_take_for_ever_to_hash_are_refused(tmp_path: Path) -> None:
    body = b"}" + b")" + b"2\x86" * 60 + b"K\x01s."  # a pair of the pair of the pair before, 60 deep
    (tmp_path / "x").write_bytes(body)
    with pytest.raises(CheckpointError, match="not a whole pickle"):
        read_checkpoint(tmp_path / "x")


def test_text_cannot_be_copied_over_and_over(tmp_path: Path) -> None:
    text = b"a" * 10_000
    once = b"c_codecs\nencode\nh\x00U\x06latin1\x86R"
    stream = b"]X" + len(text).to_bytes(4, "little") + text + b"q\x000(" + once * 100 + b"e."
    (tmp_path / "x").write_bytes(stream)
    with pytest.raises(CheckpointError, match="over and over"):
        read_checkpoint(tmp_path / "x")


def test_modules_that_contain_each_other_end(tmp_path: Path) -> None:
    module = Tiny()
    module.blocks.append(module.blocks)  # type: ignore[arg-type]
    torch.save(module, tmp_path / "loop.ckpt")
    with pytest.raises(CheckpointError, match="more than 10000 parts"):
        state_dict_of(read_checkpoint(tmp_path / "loop.ckpt"), tmp_path / "loop.ckpt")


def test_limits_come_before_reading(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(6.0)}, tmp_path / "a.pt")
    for limits in (Limits(file_bytes=100), Limits(pickle_bytes=10), Limits(entries=2), Limits(operations=5)):
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / "a.pt", limits)


def test_a_long_list_of_contents_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "DIRECTORY_BYTES", 100)
    torch.save({"w": torch.arange(6.0)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"asks for \d+ bytes at once"):
        read_checkpoint(tmp_path / "a.pt")


def test_missing_files_and_folders_are_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="it is a folder"):
        read_checkpoint(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_checkpoint(tmp_path / "a.safetensors")


def read_or_refuse(path: Path) -> None:
    """Either there are named tensors, or one sentence says why not; any other exception fails the test."""
    sentence = ""
    try:
        state_dict_of(read_checkpoint(path), path)
    except CheckpointError as error:
        sentence = str(error)
    assert sentence.isprintable()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("samples")
    torch.manual_seed(0)
    state = {"generator": OrderedDict(a=torch.randn(3, 2), b=torch.arange(4))}
    centres = MiniBatchKMeans(3, n_init=1, random_state=0).fit(np.random.default_rng(0).normal(size=(20, 2)))
    found = {}
    for write in WRITERS:
        write(state if write in TORCH_WRITERS else centres, folder / "x")
        found[write.__name__] = (folder / "x").read_bytes()
    return found


@pytest.mark.parametrize("name", [write.__name__ for write in WRITERS])
def test_truncated_files_are_refused(samples: dict[str, bytes], name: str, tmp_path: Path) -> None:
    data = samples[name]
    for length in range(0, len(data), max(1, len(data) // 60)):
        (tmp_path / "x").write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / "x")


@pytest.mark.parametrize("name", [write.__name__ for write in WRITERS])
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_changed_bytes_are_read_or_refused(
    samples: dict[str, bytes], tmp_path: Path, name: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(samples[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    (tmp_path / "x").write_bytes(data)
    read_or_refuse(tmp_path / "x")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.sampled_from(sorted(opcode.code for opcode in pickletools.opcodes)), max_size=30).map("".join))
def test_any_opcodes_are_read_or_refused(tmp_path: Path, data: str) -> None:
    (tmp_path / "x").write_bytes(b"(" + data.encode("latin-1") + b"\n0\n.")
    read_or_refuse(tmp_path / "x")
