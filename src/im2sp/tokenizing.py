"""Photos in, one table of their image units out: on record photo by photo, so that a run can go on.

Beside the table stands a folder `<table>.part` with a line for every photo that is done; the table is made of it when
all photos are through, and the folder goes.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from im2sp.arrays import IntArray
from im2sp.batch import Outcome
from im2sp.bundle import ImageTokenizer
from im2sp.captioner import Captioner
from im2sp.errors import BundleError, Im2SpError, reason, unexpected
from im2sp.image.finding import Photos
from im2sp.image.unit_table import check_id, check_installed, write_unit_table
from im2sp.manifest import OutputError, append_whole, locked, open_to_append
from im2sp.schema import checked

WORK = ".part"  # added to the name of the table
_ROWS, _TABLE = "rows.jsonl", "table.parquet"
_STORED = "<u2"


def tokenize_photos(photos: Photos, table: Path, captioner: Captioner) -> Generator[Outcome, None, None]:
    """Write a table with one row for each photo that can be read; an outcome for each photo comes when it is done.

    The table appears when all photos are through, unless none could be read. Ended before that, by whatever, the
    next run goes on with the photos that are not done yet.

    Raises OutputError: the table is there already, cannot be written or is being written by another run, two photos
    would have the same name in it, or what was begun is of other photos or another tokenizer. Raises BundleError for a
    bundle without image units.
    """
    check_installed()  # not only when all photos are through
    tokenizer = captioner.image_tokenizer
    captioner.graphs.open("image_tokenizer")  # a broken bundle ends the run here, before it fails every photo
    ids = _ids(photos, table)
    _refuse_existing(table)
    work = table.with_name(table.name + WORK)
    with locked(work):
        _refuse_existing(table)  # another run may have finished it meanwhile
        with _open_rows(work / _ROWS, tokenizer) as rows:
            for photo, image_id in photos.named():
                if rows.has(image_id, photo):
                    yield Outcome(photo, skipped=True)
                else:
                    yield _tokenized(photo, image_id, captioner, rows)
            wanted = (row for row in rows if row[0] in ids)
            first = next(wanted, None)
            if first is not None:
                write_unit_table(work / _TABLE, tokenizer, _chained(first, wanted))
        try:
            if first is not None:
                os.replace(work / _TABLE, table)
            shutil.rmtree(work)
        except OSError as error:
            raise OutputError(f"{table}: cannot be written ({reason(error)})") from error


def _tokenized(photo: Path, image_id: str, captioner: Captioner, rows: _Rows) -> Outcome:
    try:
        units = captioner.image_units(photo)
    except BundleError:
        raise
    except Im2SpError as error:
        return Outcome(photo, error=str(error))
    except Exception as error:  # a defect of ours must not keep the other photos from their rows
        return Outcome(photo, error=f"{photo}: {unexpected(error)}")
    rows.append(image_id, photo, units)
    return Outcome(photo)


def _chained(
    first: tuple[str, IntArray], rest: Iterator[tuple[str, IntArray]]
) -> Generator[tuple[str, IntArray], None, None]:
    yield first
    yield from rest


def _refuse_existing(table: Path) -> None:
    if table.exists():
        raise OutputError(f"{table}: is there already; delete it to make it anew, or choose another name")


def _ids(photos: Photos, table: Path) -> set[str]:
    """The image ids of all photos."""
    found: dict[str, Path] = {}
    for photo, image_id in photos.named():
        if image_id in found:
            raise OutputError(
                f"{found[image_id]} and {photo} would both be {image_id} in {table}: give the folder that holds both"
            )
        check_id(table, image_id)
        found[image_id] = photo
    return set(found)


class _Rows:
    """The photos that are done: a file of lines, open for appending. Iterating gives image ids and units, in order."""

    def __init__(self, path: Path, descriptor: int, done: dict[str, str]) -> None:
        self._path = path
        self._descriptor = descriptor
        self._done = done  # {image id: absolute path of the photo}

    def has(self, image_id: str, photo: Path) -> bool:
        """Whether the photo is done. Raises OutputError when another photo is done under its name."""
        absolute = os.path.abspath(photo)
        if self._done.get(image_id, absolute) != absolute:
            raise OutputError(
                f"{self._path.parent}: holds {self._done[image_id]} as {image_id}; delete that folder to begin anew, "
                "or choose another name for the table"
            )
        return image_id in self._done

    def append(self, image_id: str, photo: Path, units: IntArray) -> None:
        """Note that a photo is done, whole or not at all. Raises OutputError."""
        numbers = base64.b64encode(units.astype(_STORED).tobytes()).decode("ascii")
        _append(self._descriptor, self._path, {"image_id": image_id, "photo": os.path.abspath(photo), "units": numbers})
        self._done[image_id] = os.path.abspath(photo)

    def __iter__(self) -> Iterator[tuple[str, IntArray]]:
        with self._path.open("rb") as file:
            next(file)  # the tokenizer
            for line in file:
                row = json.loads(line)
                yield row["image_id"], np.frombuffer(base64.b64decode(row["units"]), _STORED).astype(np.int64)


@contextmanager
def _open_rows(path: Path, tokenizer: ImageTokenizer) -> Iterator[_Rows]:
    """What an earlier run has done, without a last line that a crash tore. Raises OutputError."""
    try:
        done = _read_and_repair(path, tokenizer)
        descriptor = open_to_append(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({reason(error)})") from error
    try:
        if not path.stat().st_size:
            _append(descriptor, path, {"tokenizer": tokenizer.described()})
        yield _Rows(path, descriptor, done)
    finally:
        os.close(descriptor)


def _append(descriptor: int, path: Path, values: dict[str, object]) -> None:
    append_whole(descriptor, json.dumps(values).encode("ascii") + b"\n", path)


def _read_and_repair(path: Path, tokenizer: ImageTokenizer) -> dict[str, str]:
    done: dict[str, str] = {}
    if not path.exists():
        return done
    with path.open("r+b") as file:
        whole = 0  # bytes of good lines
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                if number == 0:
                    _refuse_other(path, checked(row["tokenizer"], ImageTokenizer), tokenizer)
                else:
                    done[row["image_id"]] = row["photo"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise OutputError(f"{path.parent}: is damaged; delete that folder to begin anew") from error
            whole += len(line)
        file.truncate(whole)
    return done


def _refuse_other(path: Path, found: ImageTokenizer, wanted: ImageTokenizer) -> None:
    if not found.makes_the_units_of(wanted):
        raise OutputError(
            f"{path.parent}: was begun with another tokenizer ({found.tokenizer}); go on with its bundle, or delete "
            "that folder to begin anew"
        )
