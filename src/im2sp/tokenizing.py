"""Photos in, one Parquet table of their image units out, and back to pictures.

Beside the table stands a folder `<table>.part` with a line for each finished photo, so that a run can continue. The
table is made of these lines when all photos are finished, and the folder is removed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from im2sp.arrays import IntArray
from im2sp.batch import Result
from im2sp.bundle import ImageTokenizer
from im2sp.captioner import Captioner
from im2sp.errors import BundleError, Im2SpError, OutputError, reason, unexpected
from im2sp.files import atomic_write
from im2sp.image.finding import Photos
from im2sp.image.listing import unique_ids
from im2sp.image.unit_table import UnitTables, write_unit_table
from im2sp.manifest import FileNames, JsonLog, locked, open_log
from im2sp.parquet import pyarrow_modules
from im2sp.schema import checked

WORK = ".part"  # added to the name of the table
PICTURE = ".reconstructed.png"  # so that no photo is overwritten by its own reconstruction
_ROWS, _TABLE = "rows.jsonl", "table.parquet"
_STORED = "<u2"


def tokenize_photos(photos: Photos, table: Path, captioner: Captioner) -> Generator[Result, None, None]:
    """Write a table with one row for each photo that can be read; yield the result of each photo when it is finished.

    The table appears when all photos are finished, unless none could be read. A run that is stopped before continues
    with the remaining photos when it is started again.

    Raises OutputError: the table exists already, cannot be written or is being written by another run, two photos
    would have the same id, or the unfinished run was of other photos or another tokenizer. Raises BundleError for a
    bundle without image units.
    """
    pyarrow_modules("tables of image units")  # raises here, not only when all photos are finished
    tokenizer = captioner.image_tokenizer
    captioner.graphs.open("image_tokenizer")  # a broken bundle ends the run here, before it fails every photo
    ids = unique_ids(((image_id, str(photo)) for photo, image_id in photos.named()), table)
    with working_folder(table) as work, _open_rows(work / _ROWS, tokenizer) as rows:
        for photo, image_id in photos.named():
            if rows.has(image_id, photo):
                yield Result(photo, skipped=True)
                continue
            units = try_tokenize(captioner, photo, str(photo))
            if isinstance(units, str):
                yield Result(photo, error=units)
            else:
                rows.append(image_id, photo, units)
                yield Result(photo)
        finish_table(work, table, tokenizer, (row for row in rows if row[0] in ids))


def try_tokenize(captioner: Captioner, image: Any, name: str) -> IntArray | str:
    """Return image units int64 [units], or one sentence about `name` that says why there are none.

    Raises BundleError, which would fail every photo.
    """
    try:
        return captioner.tokenize(image)
    except BundleError:
        raise
    except Im2SpError as error:
        return str(error)
    except Exception as error:  # a defect must not stop the other photos
        return f"{name}: {unexpected(error)}"


@contextmanager
def working_folder(table: Path) -> Iterator[Path]:
    """Lock the folder `<table>.part` within the block. Raises OutputError where it is in use or the table exists."""
    _refuse_existing(table)
    work = table.with_name(table.name + WORK)
    with locked(work):
        _refuse_existing(table)  # another run may have finished it meanwhile
        yield work


def finish_table(work: Path, table: Path, tokenizer: ImageTokenizer, rows: Iterable[tuple[str, IntArray]]) -> None:
    """Write the table, unless it would have no rows, and remove the working folder. Raises OutputError."""
    try:
        rows = iter(rows)
        if (first := next(rows, None)) is not None:
            write_unit_table(work / _TABLE, tokenizer, chain([first], rows))
            os.replace(work / _TABLE, table)
        shutil.rmtree(work)
    except OSError as error:
        raise OutputError(f"{table}: cannot be written ({reason(error)})") from error


def _refuse_existing(table: Path) -> None:
    if table.exists():
        raise OutputError(f"{table}: is there already; delete it to make it anew, or choose another name")


class _Rows:
    """Log of the finished photos. Iterating yields image ids and units in the order of the log."""

    def __init__(self, log: JsonLog, finished: dict[str, str]) -> None:
        self._log = log
        self._finished = finished  # {image id: absolute path of the photo}

    def has(self, image_id: str, photo: Path) -> bool:
        """Return whether the photo is finished. Raises OutputError when another photo has its id."""
        absolute = os.path.abspath(photo)
        if self._finished.get(image_id, absolute) != absolute:
            raise OutputError(
                f"{self._log.path.parent}: holds {self._finished[image_id]} as {image_id}; delete that folder to begin "
                "anew, or choose another name for the table"
            )
        return image_id in self._finished

    def append(self, image_id: str, photo: Path, units: IntArray) -> None:
        """Record a photo. Raises OutputError."""
        stored = base64.b64encode(units.astype(_STORED).tobytes()).decode("ascii")
        self._log.append({"image_id": image_id, "photo": os.path.abspath(photo), "units": stored})
        self._finished[image_id] = os.path.abspath(photo)

    def __iter__(self) -> Iterator[tuple[str, IntArray]]:
        with self._log.path.open("rb") as file:
            next(file)  # the tokenizer
            for line in file:
                row = json.loads(line)
                yield row["image_id"], np.frombuffer(base64.b64decode(row["units"]), _STORED).astype(np.int64)


@contextmanager
def _open_rows(path: Path, tokenizer: ImageTokenizer) -> Iterator[_Rows]:
    """Open the log of an earlier run, or begin one. Raises OutputError for one of another tokenizer."""
    finished: dict[str, str] = {}

    def read(number: int, line: dict[str, Any]) -> None:
        if number > 1:
            finished[line["image_id"]] = line["photo"]
        else:
            _refuse_other_tokenizer(path.parent, checked(line["tokenizer"], ImageTokenizer), tokenizer)

    with open_log(path, read, b"{", "damaged; delete its folder to begin anew") as log:
        if not path.stat().st_size:
            log.append({"tokenizer": tokenizer.described()})
        yield _Rows(log, finished)


def _refuse_other_tokenizer(work: Path, found: ImageTokenizer, wanted: ImageTokenizer) -> None:
    """Raise OutputError where an unfinished run used another tokenizer."""
    if not found.makes_the_units_of(wanted):
        raise OutputError(
            f"{work}: was begun with another tokenizer ({found.tokenizer}); go on with its bundle, or delete that "
            "folder to begin anew"
        )


def reconstruct_photos(photos: UnitTables, out: Path, captioner: Captioner) -> Iterator[Path]:
    """Write `out`/<name>.reconstructed.png for each stored photo; yield each path when it is written.

    Raises BundleError when the bundle has no image decoder, TableError, and OutputError when `out` cannot be written.
    """
    names = FileNames()
    for photo in photos:
        picture = Image.fromarray(captioner.reconstruct(photo.units))
        path = out / names.name(os.path.abspath(photo.key), PICTURE)
        try:
            with atomic_write(path) as temporary:
                picture.save(temporary, "PNG")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({reason(error)})") from error
        yield path
