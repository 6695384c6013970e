"""JPEG and PNG files in; the same without what their pixels do not need out, and whether they are cheap to decode.

What is dropped (comments, colour profiles, previews, text, further frames) cannot be damaged, nor cost anything. Files
are untrusted: the time taken is in proportion to their bytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

CHEAP_BYTES = 16 * 2**20
CHEAP_PARTS = 4_096
_CHEAP_PIXELS = 25_000_000  # a progressive JPEG takes 6 bytes for each, other files at most 4
_CHEAP_WORK = 150_000_000  # pixels of all scans together: about a second
_ORIENTATION_BYTES = 2**16  # of a chunk that may tell it


@dataclass(frozen=True)
class Slimmed:
    """What a JPEG or PNG file needs for its pixels and their orientation."""

    data: bytes
    parts: int  # segments before the first scan, or chunks, that were looked at
    pixels: int  # width * height by the header
    scans: int = 1

    @property
    def is_cheap(self) -> bool:
        """Whether decoding takes little time and memory, whatever the bytes are."""
        return (
            len(self.data) <= CHEAP_BYTES
            and self.parts <= CHEAP_PARTS
            and self.pixels <= _CHEAP_PIXELS
            and self.pixels * self.scans <= _CHEAP_WORK
        )


# ---- JPEG: ISO 10918-1, annex B ----

EOI = b"\xff\xd9"
_SOS, _APP0, _APP1, _APP14, _APP15, _COM = 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_ALONE = frozenset((0x01, *range(0xD0, 0xDA)))  # markers without a segment
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
_TURNS = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")  # segments that may tell the orientation


def slim_jpeg(data: bytes, most: int | None = None) -> Slimmed:
    """Keep of the side information of a JPEG the first Exif, the first XMP and what tells the colour space.

    What follows its end, such as a video or another picture, is dropped too. `most`: parts that are looked at.
    """
    kept, parts, pixels, turns = [data[:2]], 0, 0, set(_TURNS)
    for code, start, end in islice(_segments(data), most):
        parts += 1
        if code == _SOS:
            last = data.find(EOI, start)
            kept.append(data[start : last + 2 if last >= 0 else len(data)])
            return Slimmed(b"".join(kept), parts, pixels, kept[-1].count(b"\xff\xda"))
        if code in _FRAMES:
            pixels = int.from_bytes(data[start + 5 : start + 7]) * int.from_bytes(data[start + 7 : start + 9])
        if code == _APP1:
            turn = next((turn for turn in turns if data.startswith(turn, start + 4)), None)
            if turn is None:
                continue
            turns.remove(turn)
        elif code == _COM or (_APP0 < code <= _APP15 and code != _APP14):
            continue
        kept.append(data[start:end])
    return Slimmed(b"".join(kept), parts, pixels)


def jpeg_scan_end(data: bytes) -> int:
    """Return where the scan of a JPEG ends: at the first marker in it; at the end of the data where it has several."""
    components = 0
    for code, start, _ in _segments(data):
        if code in _SEQUENTIAL:
            components = data[start + 9]
        elif code == _SOS and components == data[start + 4]:  # all of them in this scan, so there is no other
            found = _SCAN_END.search(data, start + 2)
            return found.start() if found else len(data)
    return len(data)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (code, start, end) of each segment up to that of the first scan; junk between them is passed over."""
    at = 2
    while (marker := _MARKER.search(data, at)) is not None:
        code, start, at = marker[1][0], marker.end() - 2, marker.end()
        if code not in _ALONE:
            at += max(2, int.from_bytes(data[at : at + 2]))
            yield code, start, at
        if code == _SOS:
            return


# ---- PNG: ISO 15948 ----

_ESSENTIAL = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_TURN_CHUNKS = ((b"eXIf", b""), (b"iTXt", b"XML:com.adobe.xmp\0"), (b"zTXt", b"Raw profile type exif\0"))


def slim_png(data: bytes, most: int | None = None) -> Slimmed:
    """Keep the image of a PNG, and the first undamaged chunk of each kind that may tell its orientation.

    `most`: chunks that are looked at.
    """
    kept, parts, turns = [data[:8]], 0, set(_TURN_CHUNKS)
    for kind, at, end in islice(_chunks(data), most):
        parts += 1
        turn = next((turn for turn in turns if turn[0] == kind and data.startswith(turn[1], at + 8)), None)
        if turn and _is_undamaged(data, at, end):
            turns.remove(turn)
            kept.append(data[at:end])
        elif kind in _ESSENTIAL:
            kept.append(data[at:end])
    return Slimmed(b"".join(kept), parts, int.from_bytes(data[16:20]) * int.from_bytes(data[20:24]))


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of each chunk up to the last."""
    at, kind = 8, b""
    while at + 8 <= len(data) and kind != b"IEND":
        kind, start = data[at + 4 : at + 8], at
        at += 12 + int.from_bytes(data[at : at + 4])
        yield kind, start, at


def _is_undamaged(data: bytes, start: int, end: int) -> bool:
    """Return whether a small chunk has the checksum that stands at its end."""
    if end - start > _ORIENTATION_BYTES:
        return False
    return zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
