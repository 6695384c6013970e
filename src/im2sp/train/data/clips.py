"""Shards of recordings and their unit tables -> clips that a vocoder learns from, in memory-mapped files.

Shards are read once, one at a time; their samples are appended to one file. So a corpus may be larger than memory.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from im2sp.errors import Im2SpError
from im2sp.files import atomic_write
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.data.speech_shards import read_shard
from im2sp.train.data.unit_table import iterate_unit_tables

log = logging.getLogger(__name__)

INDEX, WAVEFORMS, UNITS, BOUNDS = "index.json", "waveforms.bin", "units.bin", "bounds.npy"


class Clip(NamedTuple):
    """A recording and its units."""

    units: npt.NDArray[np.integer]  # unit of each frame [F], 50 Hz, repeats kept
    waveform: npt.NDArray[np.int16]  # [samples], 16 kHz
    speaker: int = 0  # row of the speaker's embedding, where there are several speakers


class StoredClips(Sequence[Clip]):
    """Clips in the order of their shards."""

    def __init__(self, folder: Path) -> None:
        """Open what `store_clips` wrote."""
        self.speakers: list[str] = json.loads((folder / INDEX).read_text())["speakers"]  # their names, in order
        self._bounds = np.load(folder / BOUNDS)  # int64 [clips, 5]: units from, to, samples from, to, speaker
        # Plain arrays' views: slices of a memmap are slow to make.
        self._units = np.asarray(np.memmap(folder / UNITS, np.uint16, "r"))
        self._waveforms = np.asarray(np.memmap(folder / WAVEFORMS, np.int16, "r"))

    def __len__(self) -> int:
        return len(self._bounds)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        first, last, start, stop, speaker = self._bounds[index].tolist()
        return Clip(self._units[first:last], self._waveforms[start:stop], speaker)


def store_clips(recordings: Path, units: Path, split: str, out: Path) -> StoredClips:
    """Write the clips of a split to `out`, unless they are there. Recordings without units are left out.

    Args:
        recordings: folder of the shards.
        units: folder of the unit tables.

    Raises:
        Im2SpError: there is no table, tables of different encoders are mixed, or no recording has units.
    """
    if not (out / INDEX).is_file():
        _write(sorted(recordings.glob(f"{split}-*.parquet")), units, split, out)
    return StoredClips(out)


def _write(shards: list[Path], units: Path, split: str, out: Path) -> None:
    spoken = {row.caption_id: row.speech_units for row in iterate_unit_tables(units, split)}
    bounds, names, frames, samples = array("q"), list[str](), 0, 0
    with (
        atomic_write(out / UNITS) as unit_path,
        unit_path.open("wb") as unit_file,
        atomic_write(out / WAVEFORMS) as waveform_path,
        waveform_path.open("wb") as waveform_file,
    ):
        for caption in chain.from_iterable(map(read_shard, shards)):
            if (found := spoken.get(caption.caption_id)) is None or len(found) == 0:
                continue
            unit_file.write(found.astype(np.uint16).tobytes())
            waveform_file.write(caption.waveform.astype(np.int16).tobytes())
            bounds.extend((frames, frames + len(found), samples, samples + len(caption.waveform)))
            frames, samples = frames + len(found), samples + len(caption.waveform)
            names.append(caption.speaker)
    if not names:
        raise Im2SpError(f"no recording of the split {split} has units in {units}")
    speakers = sorted(set(names))
    rows = {name: row for row, name in enumerate(speakers)}
    places = np.array(bounds, np.int64).reshape(-1, 4)
    whole = np.concatenate([places, np.array([[rows[name]] for name in names])], axis=1)
    with atomic_write(out / BOUNDS) as temporary, temporary.open("wb") as file:
        np.save(file, whole)
    with atomic_write(out / INDEX) as temporary:
        temporary.write_text(json.dumps({"speakers": speakers}))
    log.info("%s: %d clips, %.1f hours, %d speakers", out, len(names), samples / SAMPLE_RATE / 3600, len(speakers))
