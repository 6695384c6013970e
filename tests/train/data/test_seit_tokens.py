"""SeiT's token dumps: what was written comes back; what is damaged or hostile is one sentence."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from im2sp.errors import Im2SpError
from im2sp.train.data.seit_tokens import read_seit_tokens

UNITS = 16
HUGE = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<i8', 'fortran_order': False, 'shape': (999999999999,), }".ljust(117)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def dump(photos: np.ndarray) -> tuple[bytes, list[int]]:
    """The bytes of a dump, and where its photos start."""
    data, starts = bytearray(), []
    for photo in photos:
        starts.append(len(data))
        for unit in photo.tolist():
            data += bytes([255, unit - 255]) if unit >= 255 else bytes([unit])
    return bytes(data), starts


def write(folder: Path, data: bytes, index: bytes) -> Path:
    (folder / "train.gz").write_bytes(gzip.compress(data))
    (folder / "train.gz.index.npy").write_bytes(gzip.compress(index))
    return folder / "train.gz"


@pytest.fixture
def photos() -> np.ndarray:
    photos = np.random.default_rng(0).integers(0, 510, (5, UNITS))
    photos[0, :3] = [254, 255, 509]
    photos[1] = 509
    return photos


@pytest.mark.parametrize("with_end", [False, True])
def test_dumps_come_back(photos: np.ndarray, with_end: bool, tmp_path: Path) -> None:
    data, starts = dump(photos)
    path = write(tmp_path, data, npy(np.array(starts + [len(data)] * with_end)))
    found = list(read_seit_tokens(path, UNITS))
    assert found[0].dtype == np.uint16
    np.testing.assert_array_equal(np.stack(found), photos)


def test_a_photo_has_1024_units_of_at_most_510(tmp_path: Path) -> None:
    photos = np.random.default_rng(1).integers(0, 510, (3, 1024))
    data, starts = dump(photos)
    np.testing.assert_array_equal(
        np.stack(list(read_seit_tokens(write(tmp_path, data, npy(np.array(starts)))))), photos
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data, starts: (data, npy(np.array(starts[::-1]))), "do not grow from 0"),
        (lambda data, starts: (data, npy(np.array(starts) + 1)), "do not grow from 0"),
        (lambda data, starts: (data, npy(np.array(starts, dtype=float))), "no list of offsets"),
        (lambda data, starts: (data, npy(np.array([], dtype=int))), "no list of offsets"),
        (lambda data, starts: (data, npy(np.array([starts]))), "other than a row of numbers"),
        (lambda data, starts: (data, npy(np.array(starts, dtype=object))), "other than a row of numbers"),
        (lambda data, starts: (data, b"nonsense"), "no gzip of a .npy file"),
        (lambda data, starts: (data, HUGE + bytes(80)), "no gzip of a .npy file"),
        (lambda data, starts: (data, npy(np.array([0, 10**15]))), "more than 16 units can take"),
        (lambda data, starts: (data, npy(np.array([0, 5]))), r"units in photo 0 where 16"),
        (lambda data, starts: (data[:-2], npy(np.array(starts))), r"in photo 4"),
        (lambda data, starts: (data + b"12345", npy(np.array(starts))), r"in photo 4"),
        (lambda data, starts: (b"\xff\xff" + data[2:], npy(np.array(starts))), "escape without a value in photo 0"),
    ],
)
def test_damaged_dumps_are_refused(
    change: Callable[[bytes, list[int]], tuple[bytes, bytes]], why: str, photos: np.ndarray, tmp_path: Path
) -> None:
    path = write(tmp_path, *change(*dump(photos)))
    with pytest.raises(Im2SpError, match=why):
        list(read_seit_tokens(path, UNITS))


def test_missing_and_cut_files_are_said(photos: np.ndarray, tmp_path: Path) -> None:
    data, starts = dump(photos)
    path = write(tmp_path, data, npy(np.array(starts)))
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(Im2SpError, match=r"train\.gz cannot be read"):
        list(read_seit_tokens(path, UNITS))
    with pytest.raises(Im2SpError, match=r"nothing\.index\.npy is no gzip"):
        list(read_seit_tokens(tmp_path / "nothing", UNITS))
