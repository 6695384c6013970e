"""Standard input in the place of a file to read, and standard output in that of one to write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from im2sp.errors import Im2SpError, reason
from im2sp.files import NamedBytes, atomic_write

if TYPE_CHECKING:
    from im2sp.arrays import FloatArray

_STREAMS = frozenset(map(Path, ("-", "/dev/stdin", "/dev/stdout", "/dev/fd/0", "/dev/fd/1")))


def is_standard_stream(path: Path | None) -> bool:
    """Return whether a path stands for standard input or output."""
    return path in _STREAMS


def standard_input(limit: int) -> NamedBytes:
    """Read standard input, at most a byte more than `limit`, which readers refuse. Raises Im2SpError."""
    try:
        return NamedBytes(sys.stdin.buffer.read(limit + 1), "standard input")
    except OSError as error:
        raise Im2SpError(f"standard input: cannot be read ({reason(error)})") from error


def write_waveform(out: Path, waveform: FloatArray, *, raw: bool) -> None:
    """Write a WAV file, or with `raw` its 16-bit samples alone; to standard output where `out` stands for it.

    Raises AudioError.
    """
    from im2sp.speech.audio import encode_wav, to_pcm16, write_wav

    if is_standard_stream(out):
        sys.stdout.buffer.write(to_pcm16(waveform).tobytes() if raw else encode_wav(waveform))
        sys.stdout.buffer.flush()
    elif raw:
        with atomic_write(out) as temporary:
            temporary.write_bytes(to_pcm16(waveform).tobytes())
    else:
        write_wav(out, waveform)
