"""Files written whole or not at all, and the SHA256SUMS of a folder, written by exports and verified on loading."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path, PurePosixPath

from im2sp.errors import BundleError, Im2SpError, reason

CHECKSUMS = "SHA256SUMS"
MODEL_CARD = "README.md"  # not listed: measured figures are added to it without touching what they measure
CHECKSUMS_LIMIT = 2**20  # bytes; thousands of files
FILE_LIMITS = {".onnx": 2**31, ".data": 8 * 2**30}  # bytes, by the end of a name; onnxruntime reads no larger graph
OTHER_LIMIT = 2**24  # bytes of any other file
TOTAL_LIMIT = 16 * 2**30  # bytes of all files of a bundle
ADDRESS = "addresses are not fetched; save the file first and give its path"
_AT_ONCE = 4  # files that are read side by side

PART = re.compile(r"\..*\.[0-9a-f]{8}\.part", re.DOTALL)  # temporary files that `atomic_write` leaves when it is killed
_ADDRESS = re.compile(r"(?i)[a-z][a-z0-9+.-]+:/")
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


class NamedBytes(io.BytesIO):
    """The bytes of a file, with a name for messages."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def why_missing(name: str, error: OSError | ValueError) -> str:
    """Return why a file that was named cannot be read: an address is often given in its place."""
    if isinstance(error, FileNotFoundError) and _ADDRESS.match(name):
        return ADDRESS
    return reason(error)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block succeeds its file takes the place of `path`, otherwise it is deleted.

    Links are followed, and a file that is there keeps its mode. What is no regular file, such as a device or a FIFO, is
    written into.
    """
    if _is_special(path):
        with tempfile.TemporaryDirectory() as folder:
            yield (temporary := Path(folder, "output"))
            with temporary.open("rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # less the umask
    try:
        yield temporary
        with suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _is_special(path: Path) -> bool:
    """Return whether `path` is there and neither a regular file nor a folder, or one of the system's own names."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or path.absolute().parts[1:2] in (("dev",), ("proc",))


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path`; move it there when the block succeeds, delete it otherwise.

    Raises Im2SpError where it cannot be written, or is there already and not to `replace`.
    """
    if path.exists() and not replace:
        raise Im2SpError(f"{path} exists already: give the name of a new folder, or delete it")
    staging = path.with_name(f".{path.name}.part")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        shutil.rmtree(path, ignore_errors=True)
        staging.rename(path)
    except OSError as error:
        raise Im2SpError(f"{path} cannot be written: {reason(error)}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def open_regular(path: Path, limit: int) -> Iterator[BufferedReader]:
    """Open a file from outside for reading. Raises OSError also for what is no regular file, or larger than `limit`."""
    nonblocking = getattr(os, "O_NONBLOCK", 0)  # a FIFO would be waited for
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | nonblocking)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, where im2sp reads {limit:,} at most")
        yield file


def write_checksums(folder: Path) -> dict[str, str]:
    """Write `folder`/SHA256SUMS over every other file below `folder` but the model card; return {path: SHA-256}.

    The format is that of the `sha256sum` tool, so `sha256sum -c SHA256SUMS` checks a bundle without im2sp.
    Raises BundleError when a file name cannot stand in that format.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    checksums = {name: sha256_of(folder / name) for name in names if name not in (CHECKSUMS, MODEL_CARD)}
    for name in checksums:
        _refuse_unsafe(name, folder)
    with atomic_write(folder / CHECKSUMS) as temporary:
        temporary.write_text(format_checksums(checksums), encoding="utf-8")
    return checksums


def format_checksums(checksums: Mapping[str, str]) -> str:
    """Format {relative path: hexadecimal SHA-256} as the text of SHA256SUMS."""
    return "".join(f"{digest}  {name}\n" for name, digest in checksums.items())


def verify_checksums(folder: Path) -> dict[str, str]:
    """Check every file that `folder`/SHA256SUMS lists; return {relative path: hexadecimal SHA-256}.

    Raises BundleError for a list that cannot be read or leaves the folder, and for files that are missing or changed.
    """
    checksums = _read_checksums(folder)
    _check_sizes(folder, checksums)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda name: _digest_in(folder, name), checksums)
        for (name, expected), digest in zip(checksums.items(), found, strict=True):
            if digest != expected:
                raise BundleError(
                    f"{name} of the bundle {folder} has changed since it was exported: get the bundle again"
                )
    return checksums


def _check_sizes(folder: Path, names: Iterable[str]) -> None:
    """Refuse files that are missing, and more of them than can be read in a minute."""
    size = 0
    for name in names:
        try:
            size += (folder / name).stat().st_size
        except FileNotFoundError as error:
            raise BundleError(f"{name} is missing from the bundle {folder}: get the bundle again") from error
        except OSError as error:
            raise BundleError(f"{name} of the bundle {folder} cannot be read: {reason(error)}") from error
    if size > TOTAL_LIMIT:
        raise BundleError(
            f"the bundle {folder} has {size / 2**30:.1f} GB, where im2sp reads {TOTAL_LIMIT >> 30} at most"
        )


def _digest_in(folder: Path, name: str) -> str:
    limit = FILE_LIMITS.get(PurePosixPath(name).suffix, OTHER_LIMIT)
    try:
        with open_regular(folder / name, limit) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{name} of the bundle {folder} cannot be read: {reason(error)}") from error


def _read_checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    try:
        with open_regular(path, CHECKSUMS_LIMIT) as file:
            lines = file.read(CHECKSUMS_LIMIT).decode("utf-8").splitlines()
    except FileNotFoundError as error:
        raise BundleError(f"{CHECKSUMS} is missing from the bundle {folder}: get the bundle again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path} cannot be read as a list of checksums ({reason(error)}): get the bundle again"
        ) from error
    checksums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise BundleError(f"line {number} of {path} is not a checksum and a file name: get the bundle again")
        digest, name = match[1].lower(), match[2]
        _refuse_unsafe(name, folder)
        if name in checksums:
            raise BundleError(f"{path} lists {name} twice: get the bundle again")
        checksums[name] = digest
    return checksums


def _refuse_unsafe(name: str, folder: Path) -> None:
    """Check names as text, unresolved: caches of model hubs keep a bundle as links to files elsewhere."""
    path = PurePosixPath(name)
    if (
        str(path) != name
        or path.is_absolute()
        or ".." in path.parts
        or not name.isprintable()
        or {"\\", ":"} & set(name)
    ):
        raise BundleError(f"the bundle {folder} lists {name!r}, a path that does not stay inside it: do not trust it")
