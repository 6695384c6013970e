"""Output folder of a batch: captions.jsonl lists the finished photos and their wav files; one run at a time."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from im2sp.errors import OutputError, reason
from im2sp.files import PART

CAPTIONS = "captions.jsonl"
LOCK = ".im2sp.lock"

_BINARY = getattr(os, "O_BINARY", 0)  # Windows would write other line ends
_STEM_BYTES = 180  # of a photo's name in the name of its file; file systems end at 255, suffixes need room
_START = b'{"image": "'  # of each line
_WAV_HEADER = 44  # bytes; a wav without samples is incomplete


@dataclass(frozen=True)
class Version:
    """What a caption was made of; with another one the photo is captioned again."""

    size: int  # bytes of the photo
    modified: int  # nanoseconds
    options: str  # digest of the bundle and the decoding options

    @classmethod
    def of(cls, photo: Path, options: str) -> Version:
        """Look at a photo; one that is not there has no size."""
        try:
            status = photo.stat()
        except (OSError, ValueError):  # ValueError: a path with a zero byte
            return cls(-1, 0, options)
        return cls(status.st_size, status.st_mtime_ns, options)


@dataclass(frozen=True)
class Row:
    """One line of captions.jsonl."""

    image: str  # absolute path of the photo
    wav: str  # file name in the output folder; empty where it was only played
    units: list[int]  # repeats removed
    durations: list[int]  # frames of 20 ms, one for each unit
    score: float  # mean log probability of a token
    seconds: float  # time taken
    confidence: float | None = None  # probability that the caption is right; None where the bundle is not calibrated
    hedged: bool = False  # the speech says "perhaps" before the caption
    heard: str | None = None  # the words that a recogniser heard; None where none listened
    abstained: bool = False  # the speech says instead that it cannot be told what the photo shows


class Manifest:
    """captions.jsonl of one folder, open for appending; a line is written whole or not at all. See `open_manifest`."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        """Read the lines that are there, and cut off a last one that a crash left incomplete.

        Raises OutputError for a line that is no caption, or names a file elsewhere.
        """
        self.folder = folder
        self.path = folder / CAPTIONS
        self.added = 0  # lines written by this run
        self._descriptor = descriptor
        self._versions: dict[str, Version] = {}  # by absolute path of the photo
        self._names: dict[str, str] = {}  # of wavs, by the same
        complete = 0  # bytes
        with open(descriptor, "rb", closefd=False) as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n") and (line.startswith(_START) or _START.startswith(line)):
                    break
                self._read(number, line)
                complete += len(line)
        os.ftruncate(descriptor, complete)
        self._free = FileNames(self._names.values())

    def _read(self, number: int, line: bytes) -> None:
        try:
            values = json.loads(line)
            image, wav = values["image"], values["wav"]
            if not (line.endswith(b"\n") and isinstance(image, str) and isinstance(wav, str)):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"line {number} is not a caption; repair the file or choose another folder"
            raise OutputError(f"{self.path}: {what}") from error
        if wav in ("", ".", "..") or wav != os.path.basename(wav) or "\\" in wav or ":" in wav:
            raise OutputError(f"{self.path}: line {number} names {wav!r}, which is no file in that folder")
        self._names[image] = wav  # the last line of a photo counts
        self._versions[image] = Version(*(values.get(name) for name in ("size", "modified", "options")))

    def has(self, photo: Path, version: Version) -> bool:
        """Return whether the photo has its line, of that version, and its wav."""
        if self._versions.get(os.path.abspath(photo)) != version:
            return False
        try:
            status = self.wav_for(photo).lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size > _WAV_HEADER

    def wav_for(self, photo: Path) -> Path:
        """Return the path of a photo's wav: `<stem>.wav`, with a hash of the photo's path where that name is taken.

        A photo keeps its name over restarts: photos come in a fixed order, and recorded names are kept.
        """
        absolute = os.path.abspath(photo)
        if absolute not in self._names:
            self._names[absolute] = self._free.name(absolute, ".wav")
        return self.folder / self._names[absolute]

    def append(self, row: Row, version: Version) -> None:
        """Add a line; its wav must be in place. Raises OutputError, also where captions.jsonl has been removed."""
        self.check()
        rest = memoryview(json.dumps(asdict(row) | asdict(version)).encode("ascii") + b"\n")
        before = os.fstat(self._descriptor).st_size
        try:
            while rest:  # the system may take less than all of it
                rest = rest[os.write(self._descriptor, rest) :]
        except BaseException as error:  # also Ctrl-C within a line
            with suppress(OSError):  # otherwise the next run repairs it
                os.ftruncate(self._descriptor, before)
            if isinstance(error, OSError):
                raise OutputError(f"{self.path}: cannot be written ({reason(error)})") from error
            raise
        self._versions[row.image] = version
        self.added += 1

    def check(self) -> None:
        """Raise OutputError where captions.jsonl is not at its path any more: what is written would be lost."""
        try:
            there = os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
        except OSError:
            there = False
        if not there:
            raise OutputError(f"{self.path}: was removed during the run; run the same command again")


@contextmanager
def open_manifest(folder: Path) -> Iterator[Manifest]:
    """Create the folder if needed, lock it against other runs, and remove what a killed run left unfinished.

    Raises OutputError: not writable, used by another run, or with a captions.jsonl that im2sp did not write.
    """
    with locked(folder):
        path = folder / CAPTIONS
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if PART.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        os.unlink(entry)
            if path.exists() and not path.is_file():
                raise OutputError(f"{path}: is not an ordinary file; choose another folder")
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _BINARY, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({reason(error)})") from error
        try:
            manifest = Manifest(folder, descriptor)
            yield manifest
            manifest.check()
        finally:
            os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder if needed and lock it against other runs within the block. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to ({reason(error)})") from error
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError | PermissionError):
            sentence = "another im2sp is writing there; wait until it is done or choose another folder"
        else:
            sentence = f"cannot be locked against other runs ({reason(error)})"
        raise OutputError(f"{folder}: {sentence}") from error
    try:
        yield
    finally:
        os.close(lock)  # releases it; the file stays, since deleting it could release the lock of another run


class FileNames:
    """File names in one folder, different for each photo on any file system."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {_folded(name) for name in taken}

    def name(self, photo: str, suffix: str) -> str:
        """Return `<stem><suffix>`, with a hash of the absolute path `photo` where that name is taken."""
        stem = Path(photo).stem
        while len(os.fsencode(stem)) > _STEM_BYTES:
            stem = stem[:-1]
        digest = hashlib.sha256(os.fsencode(photo)).hexdigest()
        names = (f"{stem}{suffix}", *(f"{stem}-{digest[:length]}{suffix}" for length in (8, 16, len(digest))))
        name = next(name for name in names if _folded(name) not in self._taken)
        self._taken.add(_folded(name))
        return name


def _folded(name: str) -> str:
    """Map names that differ only in case or in the encoding of accents, which are one file on some systems."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
