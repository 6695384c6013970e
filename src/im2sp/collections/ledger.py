"""The output folder of a collection: what is made there and of what, which shards are done, one run at a time.

`run.json` says what is made, `shard-000012.json` that a shard is done, and `SHA256SUMS`, at the end, that all are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from im2sp.checksums import CHECKSUMS, format_checksums
from im2sp.collections.shards import Shard, ShardResult, StoredFile
from im2sp.errors import OutputError, reason
from im2sp.files import replace_whole
from im2sp.manifest import locked

RUN = "run.json"
FORMAT_VERSION = 1
_MOST_RUN = 2**20  # bytes
_LEFT_OVER = re.compile(r"\..+\.part|\.shard-\d+\.attempts")
_DIFFERENCES = {
    "format_version": "by another version of im2sp",
    "makes": "by another command",
    "bundle": "with another bundle",
    "options": "with other options",
    "photos": "with other photos or another size of shards",
    "shards": "with more or fewer shards",
}


@dataclass(frozen=True)
class Run:
    """What is made of what. Runs that differ in anything cannot go on with each other's shards."""

    makes: str  # CAPTIONS or UNITS
    bundle: str  # hexadecimal SHA-256 of the checksums of the bundle's files
    options: dict[str, int | float]  # how photos are decoded
    photos: str  # hexadecimal SHA-256: which photos are in which shard
    shards: int


class Ledger:
    """An output folder that this run holds. Made by `open_ledger`."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder = folder
        self._shards = shards

    def done(self) -> dict[int, ShardResult]:
        """The shards that are done, by number."""
        found = ((number, Shard(self.folder, number).sealed()) for number in range(self._shards))
        return {number: sealed[0] for number, sealed in found if sealed}

    def close_off(self) -> None:
        """Write SHA256SUMS over the files of all shards. Raises OutputError where a shard is missing."""
        files: dict[str, str] = {}
        for number in range(self._shards):
            sealed = Shard(self.folder, number).sealed()
            if sealed is None:
                raise OutputError(f"{self.folder}: shard {number} is not there any more; run the same command again")
            files |= _checksums(sealed[1])
        try:
            with replace_whole(self.folder / CHECKSUMS) as temporary:
                temporary.write_text(format_checksums(files), encoding="ascii")
            _sweep(self.folder)  # workers that died could not
        except OSError as error:
            raise OutputError(f"{self.folder / CHECKSUMS}: cannot be written ({reason(error)})") from error


@contextmanager
def open_ledger(folder: Path, run: Run) -> Iterator[Ledger]:
    """Make the folder where needed, hold it against other runs, and clear away what an earlier run left half done.

    Raises OutputError: not writable, in use by another run, begun with other photos or options, or not empty and not
    ours.
    """
    with locked(folder):
        try:
            _refuse_other(folder, run)
            _sweep(folder)
            with replace_whole(folder / RUN) as temporary:
                temporary.write_text(json.dumps(_described(run), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written to ({reason(error)})") from error
        yield Ledger(folder, run.shards)


def _sweep(folder: Path) -> None:
    for name in os.listdir(folder):
        if _LEFT_OVER.fullmatch(name):
            os.unlink(folder / name)


def _described(run: Run) -> dict[str, Any]:
    return {"format_version": FORMAT_VERSION, **asdict(run)}


def _refuse_other(folder: Path, run: Run) -> None:
    path = folder / RUN
    if not path.exists():
        if any(not name.startswith(".") for name in os.listdir(folder)):
            raise OutputError(f"{folder}: holds something else already; choose another folder")
        return
    try:
        found = json.loads(path.read_bytes()) if path.stat().st_size <= _MOST_RUN else None
    except (ValueError, RecursionError):
        found = None
    wanted = _described(run)
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        raise OutputError(f"{path}: is damaged or of another im2sp; choose another folder")
    for name, difference in _DIFFERENCES.items():
        if found[name] != wanted[name]:
            raise OutputError(f"{folder}: was begun {difference}; go on with the same, or choose another folder")


def _checksums(files: list[StoredFile]) -> dict[str, str]:
    return {each.name: each.sha256 for each in files}
