"""One shard of the output: its files, its mark that it is done, and what killed a process while it was made.

A shard counts as done when its mark is there, which appears after all its files. Making it again gives the same bytes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

from im2sp.errors import OutputError, reason
from im2sp.files import replace_whole, sha256_of

CAPTIONS, WAVS, UNITS, ERRORS = "captions", "wavs", "units", "errors"  # kinds of files
MOST_DEATHS = 3  # so often a photo may end the process that works on it before it is left out
_MARKED = ("number", "photos", "failed")  # of a result, in the mark
_MOST_MARK = 2**16  # bytes


@dataclass(frozen=True)
class ShardResult:
    """What became of the photos of a shard."""

    number: int  # from 0
    photos: int  # one result for each
    failed: int  # of them, with an error as the result
    skipped: bool = False  # it had been made before this run


@dataclass(frozen=True)
class StoredFile:
    """One file of a shard that is done."""

    name: str
    size: int  # bytes
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class Shard:
    """A shard in an output folder."""

    folder: Path
    number: int  # from 0

    def file(self, kind: str, suffix: str) -> Path:
        """Where one of its files goes: `<kind>-000012<suffix>`."""
        return self.folder / f"{kind}-{self.number:06d}{suffix}"

    @property
    def mark(self) -> Path:
        """What says that it is done."""
        return self.file("shard", ".json")

    @property
    def attempts(self) -> Path:
        """What tells how far attempts to make it came."""
        return self.file(".shard", ".attempts")

    def seal(self, result: ShardResult, files: Iterable[Path]) -> None:
        """Write the mark over files that are in place. Raises OutputError."""
        try:
            stored = [_on_disk(path) for path in files]
            values = {name: getattr(result, name) for name in _MARKED} | {"files": [asdict(each) for each in stored]}
            with replace_whole(self.mark) as temporary:
                temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="ascii")
            self.attempts.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self.mark}: cannot be written ({reason(error)})") from error

    def sealed(self) -> tuple[ShardResult, list[StoredFile]] | None:
        """What the mark says, where all its files are there with the sizes that they had; otherwise None."""
        try:
            if self.mark.stat().st_size > _MOST_MARK:
                return None
            values = json.loads(self.mark.read_bytes())
            files = [StoredFile(str(each["name"]), int(each["size"]), str(each["sha256"])) for each in values["files"]]
            number, photos, failed = (int(values[name]) for name in _MARKED)
            result = ShardResult(number, photos, failed)
            if result.number != self.number or any(Path(each.name).name != each.name for each in files):
                return None
            if any((self.folder / each.name).stat().st_size != each.size for each in files):
                return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return result, files


class Attempts:
    """What is being done with which photo of a shard, on disk before it is begun.

    A photo that ends the process again and again would otherwise do so for ever. Made by `attempts_at`.
    """

    def __init__(self, descriptor: int, path: Path, deaths: Counter[str]) -> None:
        self._descriptor = descriptor
        self._path = path
        self._deaths = deaths

    def begin(self, what: str, row: int) -> bool:
        """Note that "read" or "make" of a row begins; False where that has ended too many processes already."""
        step = f"{what} {row}"
        if self._deaths[step] >= MOST_DEATHS:
            return False
        self.note(step)
        return True

    def note(self, step: str) -> None:
        """Add a line. Raises OutputError."""
        try:
            os.write(self._descriptor, step.encode("ascii") + b"\n")
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({reason(error)})") from error


_START = "start"


@contextmanager
def attempts_at(shard: Shard) -> Iterator[Attempts]:
    """Begin another attempt at a shard. Raises OutputError."""
    path = shard.attempts
    try:
        before = path.read_text(encoding="ascii", errors="replace").split("\n") if path.exists() else []
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({reason(error)})") from error
    try:
        attempts = Attempts(descriptor, path, _last_steps(before))
        attempts.note(f"{_START} {os.getpid()}")
        yield attempts
    finally:
        os.close(descriptor)


def _last_steps(lines: list[str]) -> Counter[str]:
    """How often each step was the last one of an attempt."""
    whole = [line for line in lines if line]
    return Counter(step for step, after in zip_longest(whole, whole[1:]) if after is None or after.startswith(_START))


def _on_disk(path: Path) -> StoredFile:
    """A file whose contents are on the disk, not only on their way there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return StoredFile(path.name, path.stat().st_size, sha256_of(path))
