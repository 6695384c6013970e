"""Lists that describe a corpus: lines of a text file, or entries of an array in a large JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from im2sp.errors import Im2SpError, reason
from im2sp.files import open_regular
from im2sp.train.data.corpora.items import Problem, Report, ignore

MAX_BYTES = 2 * 2**30  # SpokenCOCO's list has 0.3 GB

_UTF8_MARK = b"\xef\xbb\xbf"

T = TypeVar("T")


def read_list(path: Path) -> bytes:
    """The content of a list, without the byte order mark.

    Raises Im2SpError when the file is missing, cannot be read, or has more than MAX_BYTES.
    """
    try:
        with open_regular(path, MAX_BYTES) as file:
            return file.read().removeprefix(_UTF8_MARK)
    except OSError as error:
        raise Im2SpError(f"{path} cannot be read ({reason(error)})") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line) of a text file in UTF-8, without blank lines. Raises Im2SpError as `read_list` does."""
    for number, line in enumerate(read_list(path).decode("utf-8", "replace").split("\n"), 1):
        if line := line.strip():
            yield number, line


def json_entries(path: Path, array: str, kind: type[T], report: Report = ignore) -> Iterator[tuple[str, T]]:
    """(where, value) of the entries of a JSON object's array at the key `array`; what is no `kind` is reported.

    Raises Im2SpError as `read_list` does, or it is no JSON or lacks the array.
    """
    try:
        values = msgspec.json.decode(read_list(path), type=dict[str, msgspec.Raw])
        if array not in values:
            raise Im2SpError(f"{path} has no list {array!r}: is it the right file?")
        entries = msgspec.json.decode(values[array], type=list[msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Im2SpError(f"{path} is damaged, or {array!r} in it is not a list ({reason(error)[:120]})") from error
    for number, entry in enumerate(entries, 1):
        where = f"{path.name}, entry {number} of {array!r}"
        try:
            value = msgspec.json.decode(entry, type=kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            report(Problem("malformed", where, f"{where}: {reason(error)[:200]}"))
        else:
            yield where, value
