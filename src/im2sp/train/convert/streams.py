"""Untrusted files: limits, and reads that are checked before memory is taken."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

from im2sp.errors import Im2SpError

LONGEST_LINE = 2**20  # bytes of a text opcode


class CheckpointError(Im2SpError):
    """A checkpoint that is damaged, hostile, or not in the layout that was asked for."""


@dataclass(frozen=True)
class Limits:
    """What a checkpoint may cost. Everything is checked before memory is taken."""

    file_bytes: int = 16 * 2**30
    pickle_bytes: int = 256 * 2**20  # of the pickle inside a zip file, without the tensors
    inflated_bytes: int = 2**30  # of a compressed file, after decompression
    operations: int = 2_000_000  # opcodes of one pickle; a thousand tensors take thirty thousand
    entries: int = 65_536  # files in a zip file


class Stream:
    """A file of known size whose reads are checked before memory is taken."""

    def __init__(self, file: BinaryIO, largest_read: int | None = None) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._largest_read = self.size if largest_read is None else largest_read
        file.seek(0)

    def read(self, count: int = -1) -> bytes:
        """At most `count` bytes, all that is left where it is negative."""
        left = max(0, self.size - self._file.tell())
        wanted = left if count < 0 else min(count, left)
        if wanted > self._largest_read:
            raise CheckpointError(f"asks for {wanted} bytes at once")
        return self._file.read(wanted)

    def readline(self) -> bytes:
        """One line with its end."""
        line = self._file.readline(LONGEST_LINE)
        if len(line) == LONGEST_LINE:
            raise CheckpointError("has a line that never ends")
        return line

    def tell(self) -> int:
        """Bytes before the next read."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place."""
        return self._file.seek(offset, whence)

    def seekable(self) -> bool:
        """Always."""
        return True

    def exactly(self, count: int) -> bytes:
        """`count` bytes. Raises CheckpointError when there are fewer."""
        if not 0 <= count <= self.size - self.tell():
            raise CheckpointError("ends too early")
        return self.read(count)
