"""Spoken captions on disk: Parquet shards of waveforms, readable by `datasets` and pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from im2sp.train.data.rows import read_rows, write_rows

FULL_SCALE = 32_768  # 16-bit value of 1.0

SCHEMA = pa.schema(
    [
        ("caption_id", pa.string()),
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("speaker", pa.string()),
        ("text", pa.string()),
        ("waveform", pa.list_(pa.int16())),  # 16 kHz mono
        ("phones", pa.list_(pa.string())),  # as a synthetic voice pronounced them, for scoring units; else empty
        ("phone_samples", pa.list_(pa.int32())),  # 16 kHz samples of each phone
    ]
)


@dataclass(frozen=True)
class SpokenCaption:
    """One spoken caption."""

    caption_id: str
    image_id: str
    split: str
    speaker: str
    text: str
    waveform: np.ndarray  # int16 [samples], 16 kHz
    phones: Sequence[str] = ()
    phone_samples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # int32 [phones], 16 kHz samples


def as_floats(waveform: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Convert 16-bit samples of any shape to float32 in [-1, 1)."""
    return waveform.astype(np.float32) / np.float32(FULL_SCALE)


def write_shard(path: Path, captions: Iterable[SpokenCaption]) -> None:
    """Write one shard, atomically."""
    write_rows(path, captions, SCHEMA)


def read_shard(path: Path) -> Iterator[SpokenCaption]:
    """Read one shard."""
    return read_rows(path, SpokenCaption, SCHEMA)


def read_shards(folder: Path, split: str | None = None, limit: int | None = None) -> Iterator[SpokenCaption]:
    """Read at most `limit` captions of a split, or of all, in the order of the shards' names."""
    shards = sorted(folder.glob(f"{split}-*.parquet" if split else "*.parquet"))
    return islice(chain.from_iterable(map(read_shard, shards)), limit)
