"""Photos in, one Parquet table of their image units out, and back to pictures.

Beside the table stands a folder `<table>.part` of what is finished, so that a run can continue. The table is made of it
when all photos are finished, and the folder is removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from im2sp.arrays import IntArray
from im2sp.batch import Result
from im2sp.captioner import Captioner
from im2sp.errors import BundleError, Im2SpError, OutputError, about, reason, unexpected
from im2sp.files import atomic_write
from im2sp.image.listing import Collection
from im2sp.image.unit_table import UnitTables, write_unit_table
from im2sp.manifest import FileNames, locked
from im2sp.parquet import pyarrow_modules
from im2sp.row_files import RowFiles

WORK = ".part"  # added to the name of the table
PICTURE = ".reconstructed.png"  # so that no photo is overwritten by its own reconstruction
ROWS_PER_FILE = 128  # what a killed run loses
_TABLE = "table.parquet"


def tokenize_photos(photos: Collection, table: Path, captioner: Captioner) -> Generator[Result, None, None]:
    """Write a table with one row for each photo that can be read; yield the result of each photo when it is finished.

    The table appears when all photos are finished, unless none could be read. A run that is stopped before continues
    with the remaining photos when it is started again.

    Raises OutputError: the table exists already, cannot be written or is being written by another run, or the
    unfinished run was of other photos or another tokenizer. Raises BundleError for a bundle without image units.
    """
    with unit_rows(photos, table, captioner) as files:
        done, rows = files.finished(), []
        try:
            for place in photos.places:
                photo = Path(os.fsdecode(place.path))
                if place.image_id in done:
                    yield Result(photo, skipped=True)
                    continue
                units = try_tokenize(captioner, place.read, str(photo))
                if isinstance(units, str):
                    yield Result(photo, error=units)
                    continue
                rows.append({"image_id": place.image_id, "image_units": units.tolist()})
                if len(rows) == ROWS_PER_FILE:
                    files.add(rows)
                    rows = []
                yield Result(photo)
        finally:
            files.add(rows)


def try_tokenize(captioner: Captioner, read: Any, name: str) -> IntArray | str:
    """Return image units int64 [units] of the picture that `read` returns, or why there are none in one sentence.

    Raises BundleError, which would fail every photo.
    """
    try:
        return captioner.tokenize(read())
    except BundleError:
        raise
    except Im2SpError as error:
        return about(name, error)
    except Exception as error:  # a defect must not stop the other photos
        return f"{name}: {unexpected(error)}"


@contextmanager
def unit_rows(photos: Collection, table: Path, captioner: Captioner) -> Iterator[RowFiles]:
    """Lock the folder `<table>.part` within the block; when it succeeds, make the table of the rows in it.

    Raises OutputError where the folder is in use, the table exists or cannot be written.
    """
    pa, _ = pyarrow_modules("tables of image units")
    tokenizer = captioner.image_tokenizer
    captioner.graphs.open("image_tokenizer")  # a broken bundle ends the run here, before it fails every photo
    _refuse_existing(table)
    work = table.with_name(table.name + WORK)
    with locked(work):
        _refuse_existing(table)  # another run may have finished it meanwhile
        settings = {"tokenizer": tokenizer.described(), "photos": photos.sources}
        files = RowFiles(work, "units", {"image_units": pa.list_(pa.uint16())}, settings)
        yield files
        rows = ((row["image_id"], np.array(row["image_units"])) for row in files.sorted_rows())
        rows = (row for row in rows if row[0] in photos.ids)
        try:
            if (first := next(rows, None)) is not None:
                write_unit_table(work / _TABLE, tokenizer, chain([first], rows))
                os.replace(work / _TABLE, table)
            shutil.rmtree(work)
        except OSError as error:
            raise OutputError(f"{table}: cannot be written ({reason(error)})") from error


def _refuse_existing(table: Path) -> None:
    if table.exists():
        raise OutputError(f"{table}: is there already; delete it to make it anew, or choose another name")


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
