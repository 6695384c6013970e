"""Published unit files, one for each recording of a corpus -> unit tables.

A `.unit` file is what `torch.save` writes of a numpy vector of whole numbers: a unit for each 20 ms, repeats kept. It
is a pickle and is read as every published checkpoint is: nothing in it is run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from im2sp.errors import Im2SpError
from im2sp.speech.audio import HOP, SAMPLE_RATE
from im2sp.train.convert.checkpoints import as_tensor, read_checkpoint
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.data.corpora.items import CorpusItem, Problem
from im2sp.train.data.recordings import RecordingOptions, wrong_length
from im2sp.train.data.unit_table import UnitRow, write_unit_table

SUFFIX = ".unit"
MOST_UNITS = 2**16  # so that a unit fits 16 bits
FRAME_SECONDS = HOP / SAMPLE_RATE
MOST_BYTES = 2**24  # of a file


@dataclass(frozen=True)
class UnitFiles:
    """Source of `import_corpus`: a folder of unit files.

    The file of a recording has its name with the ending `.unit`. It lies in the folder itself or below it, where the
    recording lies in the corpus: the one with the longest path that both have counts.

    Args:
        folder: of the files.
        units: how many speech units there are.
    """

    folder: Path
    units: int
    options: RecordingOptions

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise Im2SpError(f"{self.folder} is not there: give the folder of the {SUFFIX} files")
        if not 1 <= self.units <= MOST_UNITS:
            raise Im2SpError(f"{self.units} speech units cannot be stored: give 1 to {MOST_UNITS}")

    def read(self, item: CorpusItem) -> UnitRow | Problem:
        """The row of a caption, or why there is none."""
        where = item.caption_id
        if item.recording is None:
            return Problem("no-recording", where, f"{where} has no recording")
        path = self._file_of(item.recording)
        if path is None:
            return Problem("missing", where, f"{item.recording.stem}{SUFFIX} is missing in {self.folder}")
        try:
            units = self._units_in(path)
        except CheckpointError as error:
            return Problem("unreadable", where, str(error))
        seconds = len(units) * FRAME_SECONDS
        if problem := wrong_length(where, path, seconds, self.options):
            return problem
        return UnitRow(item.image_id, where, units, item.split, item.speaker, seconds, item.text or "")

    def _file_of(self, recording: Path) -> Path | None:
        _, *parts = Path(os.path.abspath(recording.with_suffix(SUFFIX))).parts
        found = (self.folder.joinpath(*parts[start:]) for start in range(len(parts)))
        return next((path for path in found if path.is_file()), None)

    def _units_in(self, path: Path) -> np.ndarray:
        vector = as_tensor(read_checkpoint(path, MOST_BYTES))
        if vector is None or vector.ndim != 1 or vector.is_floating_point() or vector.is_complex():
            raise CheckpointError(f"{path} holds no vector of units: give what torch.save wrote of one")
        units: np.ndarray = vector.numpy()
        if len(units) and not 0 <= units.min() <= units.max() < self.units:
            raise CheckpointError(f"{path} has units from {units.min()} to {units.max()}, where there are {self.units}")
        return units.astype(np.uint16)

    def write(self, path: Path, rows: Sequence[UnitRow]) -> None:
        """One table."""
        write_unit_table(path, rows, {"speech_encoder": f"{SUFFIX} files", "units": self.units})
