"""Lists that describe a corpus, read bit by bit: lines of a text file, or entries of an array in a large JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from im2sp.errors import Im2SpError, reason, require_extra
from im2sp.train.data.corpora.items import Problem, Report

MAX_LINE_BYTES = 64 * 2**10
MAX_ENTRY_EVENTS = 200_000  # names, values and brackets of one entry of a JSON array
MAX_VALUE_BYTES = 8 * 2**20  # of one string or number in a JSON file

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_READ_BYTES = 64 * 2**10


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


def json_entries(path: Path, array: str) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of the entries of the array at the key `array` of a JSON object; one entry in memory.

    What comes after the array is not read.

    Raises:
        Im2SpError: the file is missing, is no UTF-8 JSON, ends early, lacks the array, or has an entry or value
            that is too large (MAX_ENTRY_EVENTS, MAX_VALUE_BYTES).
    """
    with require_extra("train"):
        import ijson
    try:
        with path.open("rb") as file:
            yield from _entries(ijson, _Metered(file, path), path, array)
    except OSError as error:
        raise Im2SpError(f"{path} cannot be read ({reason(error)})") from error


class _Metered:
    """A file that counts what was read since something came of it, so that no value grows without end."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self._started = False
        self.quiet = 0  # bytes

    def read(self, size: int = -1) -> bytes:
        if self.quiet > MAX_VALUE_BYTES:
            raise Im2SpError(f"{self._path} has a value of more than {MAX_VALUE_BYTES >> 20} MiB: it is not read on")
        data = self._file.read(size)
        if size > 0 and not self._started:
            self._started = True
            data = data.removeprefix(_UTF8_MARK)
        self.quiet += len(data)
        return data


def _entries(ijson: Any, file: _Metered, path: Path, array: str) -> Iterator[tuple[int, Any]]:
    number, events, builder, depth = 0, 0, None, 0
    inside = f"{array}.item"
    try:
        for prefix, event, value in ijson.parse(file, buf_size=_READ_BYTES, use_float=True):
            file.quiet = 0
            if builder is None:
                if prefix == array and event == "end_array":
                    return
                if prefix == array and event != "start_array":
                    raise Im2SpError(f"{path}: {array!r} is not a list")
                if prefix != inside:
                    continue
                number, events, builder, depth = number + 1, 0, ijson.ObjectBuilder(), 0
            events += 1
            if events > MAX_ENTRY_EVENTS:
                raise Im2SpError(f"{path}: entry {number} of {array!r} has more than {MAX_ENTRY_EVENTS:,} parts")
            builder.event(event, value)
            depth += event.startswith("start_")
            depth -= event.startswith("end_")
            if depth == 0:
                yield number, builder.value
                builder = None
    except (ijson.JSONError, ValueError) as error:  # ValueError: not UTF-8, or a number of thousands of digits
        why = reason(error)[:120]
        whole = number - (builder is not None)
        raise Im2SpError(f"{path} is damaged or no UTF-8 JSON, after {whole} of {array!r} ({why})") from error
    raise Im2SpError(f"{path} has no list {array!r}: is it the right file?")
