"""External data of ONNX graphs: refuse a graph whose weights are anywhere but in itself or in its one data file.

ONNX lets a graph name any file, offset and length for its weights, and onnxruntime opens what is named. So the graph is
scanned before. Checksums do not help: they come from whoever wrote the graph.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import BundleError, reason
from im2sp.files import FILE_LIMITS, open_regular

MAX_DEPTH = 64  # graphs within graphs
MAX_FIELDS = 500_000  # of all messages together, without those in weights

Span = tuple[int, int]  # where it starts, and where it ends


def data_file(graph: Path) -> Path:
    """Return the only file that may hold external weights of a graph."""
    return graph.with_name(f"{graph.name}.data")


def graph_bytes(graph: Path) -> int:
    """Return the bytes of a graph with all its weights. Raises OSError where it is not there."""
    beside = data_file(graph)
    return graph.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def check_external_data(graph: Path, *, listed: bool) -> None:
    """Refuse a graph with weights elsewhere than in itself and in `data_file`, or with more than that file holds.

    `listed`: whether checksums cover `data_file`. Raises BundleError, also for a graph that is damaged or too complex.
    """
    try:
        with (
            open_regular(graph, FILE_LIMITS[".onnx"]) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            # Every reader finds the file by this word, and most graphs do not have it.
            found = list(_Scanner(data).external()) if data.find(b"location") >= 0 else []
        if not found:
            return
        beside = data_file(graph)
        if other := [item.location for item in found if item.location != beside.name]:
            raise BundleError(f"{graph} reads weights from {other[0][:100]!r}, not from {beside.name}: do not trust it")
        if not listed:
            raise BundleError(f"{graph} reads weights from {beside.name}, which no checksum covers: do not trust it")
        with open_regular(beside, FILE_LIMITS[".data"]) as file:
            size = file.seek(0, os.SEEK_END)
        if any(item.offset + item.length > size for item in found) or sum(item.length for item in found) > size:
            raise BundleError(f"{graph} reads more weights than {beside.name} holds: get the bundle again")
    except (OSError, ValueError) as error:
        raise BundleError(f"{graph} cannot be read as a graph ({reason(error)}): get the bundle again") from error


@dataclass(frozen=True)
class _External:
    """Location of the data of a tensor."""

    location: str
    offset: int
    length: int


# The fields of onnx.proto through which tensors can be reached: {message: {number of a field: message in it}}.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL = 13  # of a tensor: entries of key (1) and value (2)
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # kinds of fields


class _Scanner:
    """Walks through the messages of a serialised graph without reading its weights."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._count = 0  # of fields

    def external(self) -> Iterator[_External]:
        """Yield every external tensor. Raises ValueError for what is no graph."""
        waiting: list[tuple[str, Span, int]] = [("model", (0, len(self._data)), 0)]
        while waiting:
            kind, span, depth = waiting.pop()
            if depth > MAX_DEPTH:
                raise ValueError("graphs within graphs without end")
            if kind == "tensor":
                entries = [self._entry(inner) for number, inner in self._fields(span) if number == _EXTERNAL]
                if entries:
                    yield _external(entries)
                continue
            inside = _FIELDS[kind]
            waiting += [(inside[number], inner, depth + 1) for number, inner in self._fields(span) if number in inside]

    def _entry(self, span: Span) -> tuple[str, str]:
        texts = {number: bytes(self._data[start:end]).decode("utf-8") for number, (start, end) in self._fields(span)}
        return texts.get(1, ""), texts.get(2, "")

    def _fields(self, span: Span) -> Iterator[tuple[int, Span]]:
        """Yield the length-delimited fields of a message: their numbers and spans."""
        place, end = span
        while place < end:
            self._count += 1
            if self._count > MAX_FIELDS:
                raise ValueError(f"it has more than {MAX_FIELDS:,} parts")
            tag, place = self._varint(place, end)
            kind, length = tag & 7, 0
            if kind == _VARINT:
                _, place = self._varint(place, end)
            elif kind in (_EIGHT, _FOUR):
                length = 8 if kind == _EIGHT else 4
            elif kind == _BYTES:
                length, place = self._varint(place, end)
            else:
                raise ValueError("an unknown kind of field")
            if place + length > end:
                raise ValueError("it ends too early")
            if kind == _BYTES:
                yield tag >> 3, (place, place + length)
            place += length

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        """Read a varint; return it and the start of the next field."""
        value = 0
        for index in range(10):
            if place + index >= end:
                break
            byte = self._data[place + index]
            value |= (byte & 127) << 7 * index
            if byte < 128:
                return value, place + index + 1
        raise ValueError("it ends too early")


def _external(entries: list[tuple[str, str]]) -> _External:
    known = dict(entries)
    if len(known) < len(entries):
        raise ValueError("a weight that is in two places")
    numbers = [known.get("offset", "0"), known.get("length", "")]  # without a length, any reader takes what it needs
    if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in numbers):
        raise ValueError("a weight of unknown length")
    return _External(known.get("location", ""), *map(int, numbers))
