"""A checkpoint file -> plain values and tensors: torch zip and legacy files, pickles, joblib files, safetensors.

`read_checkpoint` is the one door. What a file holds is looked at, never run (see `pickles.py`).
"""

from __future__ import annotations

import bz2
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from im2sp.errors import reason
from im2sp.train.convert.constructors import CONSTRUCTORS, STORAGE_DTYPES
from im2sp.train.convert.pickles import Global, load_pickle
from im2sp.train.convert.streams import CheckpointError, Limits, Stream

PIECE = 2**20  # bytes read or inflated at once
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # how torch marks its files from before they were zip files
LEGACY_PROTOCOL = 1001
DIRECTORY_BYTES = 16 * 2**20  # of a zip file's list of contents; 65,536 entries take 8 MB


def read_checkpoint(path: Path, limits: Limits | None = None) -> object:
    """What a file holds: dicts, lists, numbers, texts, torch tensors, numpy arrays, and records for all else.

    Raises:
        CheckpointError: one sentence for a file that is missing, damaged, too large, hostile or of another kind.
    """
    limits = limits or Limits()
    try:
        with path.open("rb") as file:
            stream = Stream(file)
            if stream.size > limits.file_bytes:
                raise CheckpointError(f"has {stream.size} bytes, more than the {limits.file_bytes} that im2sp reads")
            if path.suffix == ".safetensors":
                return load_file(path)
            return _read(file, stream, limits)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}: get the file again, from a source that you trust") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: get it again") from error
    except MemoryError as error:
        raise CheckpointError(f"{path} needs more memory than there is: convert it on a larger machine") from error


def _read(file: BinaryIO, stream: Stream, limits: Limits) -> object:
    start = stream.read(8)
    stream.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(file, limits)
    for magic, inflater in _INFLATERS.items():
        if start.startswith(magic):
            stream = Stream(_inflate(stream, inflater(), limits))
            break
    value = load_pickle(stream, CONSTRUCTORS, limits)
    return _read_legacy(stream, limits) if isinstance(value, int) and value == LEGACY_MAGIC else value


class _Inflater(Protocol):
    """What the decompressors of bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Zlib:
    """zlib and gzip with the interface of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_INFLATERS: dict[bytes, Callable[[], _Inflater]] = {
    b"\x1f\x8b": _Zlib,
    b"\x78": _Zlib,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lambda: lzma.LZMADecompressor(memlimit=256 * 2**20),
    b"\x5d\0\0": lambda: lzma.LZMADecompressor(memlimit=256 * 2**20),
}


def _inflate(stream: Stream, inflater: _Inflater, limits: Limits) -> BinaryIO:
    """A whole compressed file, unless it grows beyond its limit."""
    inflated = io.BytesIO()
    try:
        while not inflater.eof:
            data = stream.read(PIECE) if inflater.needs_input else b""
            piece = inflater.decompress(data, PIECE)
            if not data and not piece and inflater.needs_input:
                raise CheckpointError("ends too early")
            if inflated.tell() + len(piece) > limits.inflated_bytes:
                raise CheckpointError(f"unpacks to more than {limits.inflated_bytes} bytes")
            inflated.write(piece)
    except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as error:
        raise CheckpointError("is compressed but damaged") from error
    return inflated


def _fill(target: Tensor, read: Callable[[int], bytes]) -> None:
    """Read a uint8 tensor full."""
    view = memoryview(target.numpy())  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        piece = read(min(PIECE, len(view) - done))
        if not piece:
            raise CheckpointError("ends too early")
        view[done : done + len(piece)] = piece
        done += len(piece)


class _Storages:
    """The raw data of tensors, each taken once: persistent id -> one-dimensional tensor."""

    def __init__(self, budget: int) -> None:
        self.raw: dict[str, Tensor] = {}  # key -> uint8
        self.item_sizes: dict[str, int] = {}
        self._budget = budget

    def __call__(self, name: object) -> object:
        """The storage that a pickle refers to by ("storage", type, key, location, elements[, view])."""
        if not isinstance(name, tuple) or len(name) < 2:
            raise CheckpointError("refers to data in an unknown way")
        if name[0] == "module":  # legacy files send a class with its source text, which nobody needs
            return name[1]
        if name[0] != "storage" or len(name) not in (5, 6):
            raise CheckpointError("refers to data in an unknown way")
        _, kind, key, _, count, *view = name
        dtype = STORAGE_DTYPES.get(kind.name) if isinstance(kind, Global) else None
        if dtype is None:
            raise CheckpointError(f"stores numbers as {kind}, which im2sp does not read")
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise CheckpointError("refers to data in an unknown way")
        storage = self._raw(key, count, dtype.itemsize).view(dtype)
        return _part(storage, view[0]) if view and view[0] is not None else storage

    def _raw(self, key: str, count: int, item_size: int) -> Tensor:
        size = count * item_size
        if key not in self.raw:
            self._budget -= size
            if self._budget < 0:
                raise CheckpointError("says that its tensors are larger than the file")
            self.raw[key] = self.take(key, size)
            self.item_sizes[key] = item_size
        if len(self.raw[key]) != size or self.item_sizes[key] != item_size:
            raise CheckpointError(f"says two things about the size of its data {key[:20]!r}")
        return self.raw[key]

    def take(self, key: str, size: int) -> Tensor:
        """`size` bytes, to be filled later (legacy files keep the data behind the pickle)."""
        return torch.empty(size, dtype=torch.uint8)


def _part(storage: Tensor, view: object) -> Tensor:
    """A stretch of a legacy storage: (key, offset, elements)."""
    if not isinstance(view, tuple) or len(view) != 3:
        raise CheckpointError("refers to data in an unknown way")
    _, offset, count = view
    if not isinstance(offset, int) or not isinstance(count, int) or not 0 <= offset <= offset + count <= len(storage):
        raise CheckpointError("has a tensor that reaches beyond its data")
    return storage[offset : offset + count]


class _ZipStorages(_Storages):
    """One entry of a zip file for each storage."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, budget: int) -> None:
        super().__init__(budget)
        self._archive, self._folder = archive, folder

    def take(self, key: str, size: int) -> Tensor:
        """Read the entry of that name."""
        info = _entry(self._archive, f"{self._folder}data/{key}")
        if info.file_size != size:
            raise CheckpointError(f"says two things about the size of its data {key[:20]!r}")
        raw = super().take(key, size)
        with self._archive.open(info) as entry:
            _fill(raw, entry.read)
        return raw


def _read_zip(file: BinaryIO, limits: Limits) -> object:
    try:
        archive = zipfile.ZipFile(cast(BinaryIO, Stream(file, largest_read=DIRECTORY_BYTES)))
        names = archive.namelist()
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(names) > limits.entries:
            raise CheckpointError("is a zip file but not one that torch wrote")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and _small(archive, f"{folder}byteorder", 16) != b"little":
            raise CheckpointError("stores its numbers in big-endian order, which im2sp does not read")
        pickled = Stream(io.BytesIO(_small(archive, pickles[0], limits.pickle_bytes)))
        storages = _ZipStorages(archive, folder, Stream(file).size)
        return load_pickle(pickled, CONSTRUCTORS, limits, storages)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise CheckpointError("is a damaged zip file") from error


def _entry(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """An entry that is stored as it is: torch never compresses, and what is not compressed cannot be a bomb."""
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise CheckpointError(f"refers to data {name[-40:]!r} that it does not hold") from error
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise CheckpointError("is a compressed zip file, which torch never writes")
    return info


def _small(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    info = _entry(archive, name)
    if info.file_size > limit:
        raise CheckpointError(f"has a part of {info.file_size} bytes where at most {limit} are read")
    raw = torch.empty(info.file_size, dtype=torch.uint8)
    with archive.open(info) as entry:
        _fill(raw, entry.read)
    return raw.numpy().tobytes()


def _read_legacy(stream: Stream, limits: Limits) -> object:
    """Behind the magic number: protocol, system, the value, the keys of its storages, then the data of each."""
    protocol = load_pickle(stream, CONSTRUCTORS, limits)
    system = load_pickle(stream, CONSTRUCTORS, limits)
    if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("is a torch file of a kind that im2sp does not read")
    storages = _Storages(stream.size)
    value = load_pickle(stream, CONSTRUCTORS, limits, storages)
    keys = load_pickle(stream, CONSTRUCTORS, limits)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages.raw):
        raise CheckpointError("refers to data that it does not hold")
    for key in keys:
        raw = storages.raw[key]
        if int.from_bytes(stream.exactly(8), "little") * storages.item_sizes[key] != len(raw):
            raise CheckpointError(f"says two things about the size of its data {key[:20]!r}")
        _fill(raw, stream.read)
    return value
