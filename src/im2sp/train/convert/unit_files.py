"""Published units of the recordings of a corpus, `.unit` files or fairseq's `.km` files -> unit tables.

A `.unit` file is what `torch.save` writes of a numpy vector of whole numbers: a unit for each 20 ms, repeats kept. It
is a pickle and is read as every published checkpoint is: nothing in it is run. A line of `NAME.km` has the units of the
recording in the same row of the manifest `NAME.tsv` beside it (a folder, then `path<TAB>samples`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import numpy as np

from im2sp.errors import Im2SpError
from im2sp.speech.audio import HOP, SAMPLE_RATE
from im2sp.train.convert.checkpoints import as_tensor, read_checkpoint
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.data.corpora.items import CorpusItem, Problem
from im2sp.train.data.corpora.lists import read_lines
from im2sp.train.data.recordings import RecordingOptions, wrong_length
from im2sp.train.data.unit_table import UnitRow, write_unit_table

SUFFIX = ".unit"
MOST_UNITS = 2**16  # so that a unit fits 16 bits
FRAME_SECONDS = HOP / SAMPLE_RATE
MOST_BYTES = 2**24  # of a .unit file
LINE_BYTES = 2**20  # of a .km file; a minute has 20 KB


@dataclass(frozen=True)
class UnitFiles:
    """A folder of unit files, in place of the recordings of a corpus.

    The `.unit` file of a recording has its name with that ending. It lies in the folder itself or below it, where the
    recording lies in the corpus: the one with the longest path that both have counts. In the same way recordings are
    found in the manifests of `.km` files, which come first.

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

    @cached_property
    def _lines(self) -> dict[PurePosixPath, tuple[Path, int]]:
        """{path in a manifest without its ending: (its .km file, where its line starts)}; 0.2 GB for 600,000.

        Raises:
            Im2SpError: a manifest is missing, or has not as many rows as there are lines.
        """
        found: dict[PurePosixPath, tuple[Path, int]] = {}
        for path in sorted(self.folder.glob("*.km")):
            manifest = path.with_suffix(".tsv")
            names = [line.partition("\t")[0] for _, line in read_lines(manifest)][1:]
            with path.open("rb") as file:
                starts = [0, *(file.tell() for _ in iter(partial(file.readline, LINE_BYTES), b""))]
            if len(names) != len(starts) - 1:
                raise Im2SpError(
                    f"{path} has {len(starts) - 1} lines and {manifest} names {len(names)} recordings: "
                    "give the files that belong together"
                )
            found |= {
                PurePosixPath(os.path.splitext(name)[0]): (path, at) for name, at in zip(names, starts, strict=False)
            }
        return found

    def read(self, item: CorpusItem) -> UnitRow | Problem:
        """The row of a caption, or why there is none."""
        where = item.caption_id
        if item.recording is None:
            return Problem("no-recording", where, f"{where} has no recording")
        try:
            path, units = self._units_of(item.recording)
        except FileNotFoundError:
            return Problem("missing", where, f"{item.recording.stem}{SUFFIX} is missing in {self.folder}")
        except CheckpointError as error:
            return Problem("unreadable", where, str(error))
        seconds = len(units) * FRAME_SECONDS
        if problem := wrong_length(where, path, seconds, self.options):
            return problem
        return UnitRow(item.image_id, where, units, item.split, item.speaker, seconds, item.text or "")

    def _units_of(self, recording: Path) -> tuple[Path, np.ndarray]:
        """The file that has the units of a recording, and these. Raises FileNotFoundError and CheckpointError."""
        _, *parts = Path(os.path.abspath(recording.with_suffix(""))).parts
        for name in (PurePosixPath(*parts[start:]) for start in range(len(parts))):
            if name in self._lines:
                path, start = self._lines[name]
                return path, self._checked(path, _read_line(path, start))
            if (path := self.folder / f"{name}{SUFFIX}").is_file():
                return path, self._checked(path, _read_vector(path))
        raise FileNotFoundError

    def _checked(self, path: Path, units: np.ndarray) -> np.ndarray:
        if len(units) and not 0 <= units.min() <= units.max() < self.units:
            raise CheckpointError(f"{path} has units from {units.min()} to {units.max()}, where there are {self.units}")
        return units.astype(np.uint16)

    def write(self, path: Path, rows: Sequence[UnitRow]) -> None:
        """One table."""
        write_unit_table(path, rows, {"speech_encoder": f"{SUFFIX} files", "units": self.units})


def _read_vector(path: Path) -> np.ndarray:
    vector = as_tensor(read_checkpoint(path, MOST_BYTES))
    if vector is None or vector.ndim != 1 or vector.is_floating_point() or vector.is_complex():
        raise CheckpointError(f"{path} holds no vector of units: give what torch.save wrote of one")
    units: np.ndarray = vector.numpy()
    return units


def _read_line(path: Path, start: int) -> np.ndarray:
    """The units of a line of a .km file."""
    with path.open("rb") as file:
        file.seek(start)
        words = file.readline(LINE_BYTES).split()
    if not all(word.isdigit() and len(word) <= 6 for word in words):
        raise CheckpointError(f"{path} has something else than units in the line at byte {start}: get the file again")
    return np.array([int(word) for word in words], np.int64)
