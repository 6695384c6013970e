"""Spoken captions on disk: Parquet shards of waveforms, readable by `datasets` and pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from im2sp.arrays import FloatArray
from im2sp.files import atomic_write
from im2sp.speech.audio import to_pcm16

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
    phones: list[str]
    phone_samples: np.ndarray  # int32 [phones], 16 kHz samples

    @classmethod
    def recorded(
        cls, caption_id: str, image_id: str, split: str, speaker: str, text: str, waveform: FloatArray
    ) -> SpokenCaption:
        """Make one without phones. waveform: float32 [samples], 16 kHz, in [-1, 1]."""
        no_phones = np.zeros(0, np.int32)
        return cls(caption_id, image_id, split, speaker, text, to_pcm16(waveform), [], no_phones)


def as_floats(waveform: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Convert 16-bit samples of any shape to float32 in [-1, 1)."""
    return waveform.astype(np.float32) / np.float32(FULL_SCALE)


def write_shard(path: Path, captions: list[SpokenCaption]) -> None:
    """Write one shard, atomically."""
    columns = {name: [getattr(caption, name) for caption in captions] for name in SCHEMA.names}
    with atomic_write(path) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd", compression_level=1)


def read_shard(path: Path) -> Iterator[SpokenCaption]:
    """Read one shard."""
    table = pq.read_table(path)
    waveforms = table["waveform"].combine_chunks()
    offsets, samples = waveforms.offsets.to_numpy(), waveforms.values.to_numpy()
    lengths = table["phone_samples"].to_pylist()
    names = ("caption_id", "image_id", "split", "speaker", "text")
    phones = table["phones"].to_pylist()
    for row, cells in enumerate(zip(*(table[name].to_pylist() for name in names), strict=True)):
        caption_id, image_id, split, speaker, text = cells
        yield SpokenCaption(
            caption_id,
            image_id,
            split,
            speaker,
            text,
            waveform=samples[offsets[row] : offsets[row + 1]],
            phones=phones[row],
            phone_samples=np.asarray(lengths[row], dtype=np.int32),
        )


def read_shards(folder: Path, split: str | None = None, limit: int | None = None) -> Iterator[SpokenCaption]:
    """Read all shards in the order of their names, one in memory at a time.

    Args:
        split: read this split only.
        limit: captions at most.
    """
    count = 0
    for path in sorted(folder.glob("*.parquet")):
        if split is not None and not path.name.startswith(f"{split}-"):
            continue
        for caption in read_shard(path):
            if limit is not None and count >= limit:
                return
            count += 1
            yield caption
