"""Lists that describe a corpus: lines of a text file, or entries of an array in a large JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from im2sp.errors import Im2SpError, reason
from im2sp.train.data.corpora.items import Problem, Report

MAX_LINE_BYTES = 64 * 2**10
MAX_JSON_BYTES = 2 * 2**30  # SpokenCOCO's has 0.3

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

T = TypeVar("T")


def read_lines(path: Path, report: Report) -> Iterator[tuple[int, str]]:
    """(line number, line) of a text file without blank lines, line ends and byte order mark; one line in memory.

    A line that is not UTF-8 is read as Latin-1, and that is noted.

    Raises:
        Im2SpError: the file is missing, cannot be read, is UTF-16, or has a line of more than MAX_LINE_BYTES.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if len(raw) > MAX_LINE_BYTES:
                    raise Im2SpError(f"{path}, line {number} is longer than {MAX_LINE_BYTES // 1024} KiB: no such list")
                if number == 1:
                    if raw.startswith(_UTF16_MARKS):
                        raise Im2SpError(f"{path} is UTF-16: save it as UTF-8")
                    raw = raw.removeprefix(_UTF8_MARK)
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError:
                    line = raw.decode("latin-1")
                    where = f"{path.name}, line {number}"
                    report(Problem("encoding", where, f"{where} is not UTF-8 and was read as Latin-1", left_out=False))
                if line := line.strip():
                    yield number, line
    except OSError as error:
        raise Im2SpError(f"{path} cannot be read ({reason(error)})") from error


def json_entries(path: Path, array: str, kind: type[T]) -> Iterator[tuple[int, T | None]]:
    """(number from 1, value) of the entries of a JSON object's array at the key `array`; None where one is no `kind`.

    Memory: the file.

    Raises:
        Im2SpError: the file is missing, has more than MAX_JSON_BYTES, is no JSON or lacks the array.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise Im2SpError(f"{path} is larger than {MAX_JSON_BYTES >> 30} GiB: no such list")
        values = msgspec.json.decode(path.read_bytes().removeprefix(_UTF8_MARK), type=dict[str, msgspec.Raw])
        if array not in values:
            raise Im2SpError(f"{path} has no list {array!r}: is it the right file?")
        entries = msgspec.json.decode(values[array], type=list[msgspec.Raw])
    except OSError as error:
        raise Im2SpError(f"{path} cannot be read ({reason(error)})") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Im2SpError(f"{path} is damaged, or {array!r} in it is not a list ({reason(error)[:120]})") from error
    for number, entry in enumerate(entries, 1):
        yield number, json_value(entry, kind)


def json_value(text: msgspec.Raw, kind: type[T]) -> T | None:
    """Part of a JSON file as a value of a type; None where it is none."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError):
        return None
