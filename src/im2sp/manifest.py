"""The output folder of a batch: which photos are spoken (captions.jsonl) and under which names; one run at a time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from im2sp.errors import Im2SpError, reason

CAPTIONS = "captions.jsonl"
LOCK = ".im2sp.lock"

_BINARY = getattr(os, "O_BINARY", 0)  # Windows would write other line ends
_STEM_BYTES = 180  # of a photo's name that go into the name of its wav; file systems end at 255, with room for suffixes
_WAV_HEADER = 44  # bytes; a wav without sound is not whole
_BEGINNING = b'{"image": "'  # of every line
_LEFT_OVER = re.compile(r"\..+\.wav\..{8}\.part")  # what `replace_whole` leaves behind when a run is killed


class OutputError(Im2SpError):
    """An output folder that cannot be written, is in use, or holds what is not ours."""


@dataclass(frozen=True)
class Record:
    """One line of captions.jsonl."""

    image: str  # absolute path of the photo
    wav: str  # name of the file in the output folder; empty where it was only played
    units: list[int]  # repeats removed
    durations: list[int]  # frames of 20 ms, one for each unit
    score: float  # mean log probability of a token
    seconds: float  # time taken
    confidence: float | None = None  # probability that the caption is right; None where the bundle is not calibrated
    withheld: bool = False  # the speech says "I am not sure" instead


class Journal:
    """captions.jsonl of one folder, open for appending. Made by `open_journal`."""

    def __init__(self, folder: Path, descriptor: int, spoken: dict[str, str]) -> None:
        self.folder = folder
        self.added = 0  # lines by this run
        self._descriptor = descriptor
        self._names = spoken  # {absolute path of a photo: name of its wav}, given out in this run or on record
        self._recorded = set(spoken)
        self._taken = {folded(name) for name in spoken.values()}

    def is_spoken(self, photo: Path) -> bool:
        """Whether the photo has its line and its wav."""
        absolute = os.path.abspath(photo)
        try:
            return absolute in self._recorded and self.wav_for(photo).stat().st_size > _WAV_HEADER
        except OSError:
            return False

    def wav_for(self, photo: Path) -> Path:
        """Where the speech of a photo goes: `<stem>.wav`, with a hash of the photo's path when that name is taken.

        The same photo keeps its name over restarts: photos come in a fixed order and names on record stay theirs.
        """
        absolute = os.path.abspath(photo)
        if absolute not in self._names:
            name = next(name for name in names_for(absolute) if folded(name) not in self._taken)
            self._names[absolute] = name
            self._taken.add(folded(name))
        return self.folder / self._names[absolute]

    def append(self, record: Record) -> None:
        """Add a line, whole or not at all. Call it only when the wav is in place. Raises OutputError."""
        line = json.dumps(asdict(record)).encode("ascii") + b"\n"
        append_whole(self._descriptor, line, self.folder / CAPTIONS)
        self._recorded.add(record.image)
        self.added += 1


def append_whole(descriptor: int, line: bytes, path: Path) -> None:
    """Add a line to the file `path`, open under `descriptor`, whole or not at all. Raises OutputError."""
    rest = memoryview(line)
    before = os.fstat(descriptor).st_size
    try:
        while rest:  # the system may take less than all of it
            rest = rest[os.write(descriptor, rest) :]
    except BaseException as error:  # also Ctrl-C within a line
        with suppress(OSError):  # then the next run repairs it
            os.ftruncate(descriptor, before)
        if isinstance(error, OSError):
            raise OutputError(f"{path}: cannot be written ({reason(error)})") from error
        raise


def open_to_append(path: Path) -> int:
    """A descriptor of a file, made where needed, to which lines are added."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _BINARY, 0o644)


@contextmanager
def open_journal(folder: Path) -> Iterator[Journal]:
    """Make the folder where needed, hold it against other runs, and repair what an earlier run left half done.

    Raises OutputError: not writable, in use by another run, or with a captions.jsonl that is not ours.
    """
    with locked(folder):
        try:
            _sweep(folder)
            spoken = _read_and_repair(folder / CAPTIONS)
            descriptor = open_to_append(folder / CAPTIONS)
        except OSError as error:
            raise OutputError(f"{folder / CAPTIONS}: cannot be written ({reason(error)})") from error
        try:
            yield Journal(folder, descriptor, spoken)
        finally:
            os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder where needed and hold it against other runs within the block.

    Raises OutputError: not writable, or in use by another run.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to ({reason(error)})") from error
    try:
        _hold(lock, folder)
        yield
    finally:
        os.close(lock)  # lets go; the file stays, for deleting it could take the lock from under another run


def _hold(lock: int, folder: Path) -> None:
    """Take the lock; the system takes it back when this process ends, however it ends."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise OutputError(
            f"{folder}: another im2sp is writing there; wait until it is done or choose another folder"
        ) from error
    except OSError as error:
        raise OutputError(f"{folder}: cannot be locked against other runs ({reason(error)})") from error


def _sweep(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if _LEFT_OVER.fullmatch(entry.name):
                os.unlink(entry)


def _read_and_repair(path: Path) -> dict[str, str]:
    """{image: wav} of a captions.jsonl, line by line; a last line that a crash tore is cut off the file."""
    spoken: dict[str, str] = {}
    if not path.exists():
        return spoken
    if not path.is_file():
        raise OutputError(f"{path}: is not an ordinary file; choose another folder")
    with path.open("r+b") as file:
        whole = 0  # bytes of good lines
        for number, line in enumerate(file, start=1):
            entry = _entry(line)
            if entry is not None:
                spoken[entry[0]] = entry[1]  # a photo that was spoken again counts by its last line
                whole += len(line)
            elif not _is_torn(line):
                raise OutputError(f"{path}: line {number} is not a caption; repair the file or choose another folder")
        file.truncate(whole)
    return spoken


def _entry(line: bytes) -> tuple[str, str] | None:
    try:
        values = json.loads(line) if line.endswith(b"\n") else {}
        image, wav = values["image"], values["wav"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (image, wav) if isinstance(image, str) and isinstance(wav, str) else None


def _is_torn(line: bytes) -> bool:
    """Only the last line of a file lacks its end; a file that does not begin like ours is somebody else's."""
    return not line.endswith(b"\n") and (line.startswith(_BEGINNING) or _BEGINNING.startswith(line))


def names_for(absolute: str, suffix: str = ".wav") -> Iterator[str]:
    """Names for what is made of a photo, from its absolute path; the nicest first."""
    stem = Path(absolute).stem
    while len(os.fsencode(stem)) > _STEM_BYTES:
        stem = stem[:-1]
    yield f"{stem}{suffix}"
    digest = hashlib.sha256(os.fsencode(absolute)).hexdigest()
    for length in (8, 16, len(digest)):
        yield f"{stem}-{digest[:length]}{suffix}"


def folded(name: str) -> str:
    """Names that differ only in case or in how an accent is written are one file on some systems."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
