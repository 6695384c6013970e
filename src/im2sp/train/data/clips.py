"""Shards of recordings and their unit tables -> clips that a vocoder learns from, in a memory-mapped Arrow file.

Shards are read once, one at a time. So a corpus may be larger than memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from im2sp.errors import Im2SpError
from im2sp.files import atomic_write
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.data.speech_shards import read_shard
from im2sp.train.data.unit_table import iterate_unit_tables

log = logging.getLogger(__name__)

CLIPS = "clips.arrow"  # in the folder of a vocoder until it is trained

_SCHEMA = pa.schema({"units": pa.list_(pa.uint16()), "waveform": pa.list_(pa.int16()), "speaker": pa.string()})


class Clip(NamedTuple):
    """A recording and its units."""

    units: npt.NDArray[np.integer]  # unit of each frame [F], 50 Hz, repeats kept
    waveform: npt.NDArray[np.int16]  # [samples], 16 kHz
    speaker: int = 0  # row of the speaker's embedding, where there are several speakers


class StoredClips:
    """Clips in the order of their shards."""

    def __init__(self, path: Path) -> None:
        """Open what `store_clips` wrote."""
        with pa.memory_map(str(path)) as file:
            self._table = pa.ipc.open_file(file).read_all()
        names = self._table["speaker"].to_pylist()
        self.speakers: list[str] = sorted(set(names))
        self._rows = [self.speakers.index(name) for name in names]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Clip:
        units, waveform = (self._table[name][index].values.to_numpy() for name in ("units", "waveform"))
        return Clip(units, waveform, self._rows[index])


Clips = StoredClips | Sequence[Clip]


def store_clips(recordings: Path, units: Path, split: str, out: Path) -> StoredClips:
    """Write the clips of a split to the file `out`, unless it is there. Recordings without units are left out.

    Args:
        recordings: folder of the shards.
        units: folder of the unit tables.

    Raises:
        Im2SpError: there is no table, tables of different encoders are mixed, or no recording has units.
    """
    if out.is_file():
        return StoredClips(out)
    spoken = {row.caption_id: row.speech_units for row in iterate_unit_tables(units, split)}
    return write_clips(
        (
            [
                {"units": found, "waveform": caption.waveform, "speaker": caption.speaker}
                for caption in read_shard(shard)
                if len(found := spoken.get(caption.caption_id, ()))
            ]
            for shard in sorted(recordings.glob(f"{split}-*.parquet"))
        ),
        f"no recording of the split {split} has units in {units}",
        out,
    )


def write_clips(shards: Iterable[list[dict[str, Any]]], none: str, out: Path) -> StoredClips:
    """Write clips with units [F], a waveform int16 and a speaker each to the file `out`, shard by shard.

    Raises Im2SpError, which says `none`, when there are no clips.
    """
    clips = samples = 0
    with atomic_write(out) as temporary, pa.ipc.new_file(str(temporary), _SCHEMA) as file:
        for rows in shards:
            file.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
            clips, samples = clips + len(rows), samples + sum(len(row["waveform"]) for row in rows)
        if not clips:
            raise Im2SpError(none)
    log.info("%s: %d clips, %.1f hours", out, clips, samples / SAMPLE_RATE / 3600)
    return StoredClips(out)
