"""Speech units: frames at 50 Hz <-> units without repeats and their durations; units as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from im2sp.arrays import IntArray
from im2sp.errors import Im2SpError

UNITS_LIMIT = 30_000  # units in one request, about twenty minutes of speech
TEXT_LIMIT = 8 * UNITS_LIMIT  # characters of units written as text


def remove_repeats(frames: Sequence[int] | IntArray) -> tuple[IntArray, IntArray]:
    """Reduce frames int64 [F] at 50 Hz -> units int64 [U] without repeats, durations int64 [U] in frames of 20 ms.

    `expand` inverts it. It makes a caption about half as long (section 3.1 of the paper).
    """
    sequence = np.asarray(frames, dtype=np.int64)
    starts = np.flatnonzero(_begins(sequence))
    return sequence[starts], np.diff(starts, append=len(sequence)).astype(np.int64)


def without_repeats(frames: Sequence[int] | IntArray) -> IntArray:
    """Reduce to the units alone, in a third of the time: streams do it at every step."""
    sequence = np.asarray(frames, dtype=np.int64)
    return sequence[_begins(sequence)]


def _begins(sequence: IntArray) -> npt.NDArray[np.bool_]:
    """Mark where a unit begins. np.diff would take thrice as long."""
    changes = np.ones(len(sequence), dtype=np.bool_)
    np.not_equal(sequence[1:], sequence[:-1], out=changes[1:])
    return changes


def expand(units: Sequence[int] | IntArray, durations: Sequence[int] | IntArray) -> IntArray:
    """Repeat units int64 [U] by durations int64 [U] in frames of 20 ms -> frames int64 [F] at 50 Hz.

    Raises Im2SpError when the two differ in length, a duration is negative, or all are 0.
    """
    unit_array, duration_array = np.asarray(units, dtype=np.int64), np.asarray(durations, dtype=np.int64)
    if unit_array.shape != duration_array.shape:
        raise Im2SpError(f"there are {unit_array.size} units but {duration_array.size} durations: give one to each")
    if duration_array.min(initial=0) < 0 or (duration_array.size and not duration_array.any()):
        raise Im2SpError("durations are frames of 20 ms: give numbers from 0 on, not all of them 0")
    return np.repeat(unit_array, duration_array)


def check_units(units: Sequence[int] | IntArray, count: int) -> IntArray:
    """Check that units are integers from 0 to `count` - 1 -> int64 [U]. Raises Im2SpError, also for too many."""
    array = np.asarray(units)
    if array.ndim != 1 or array.size == 0:
        raise Im2SpError("there are no units to speak: give at least one")
    if array.size > UNITS_LIMIT:
        raise Im2SpError(f"{array.size} units are too many: give at most {UNITS_LIMIT} at a time")
    if not np.issubdtype(array.dtype, np.integer):
        raise Im2SpError(f"units are whole numbers, not {array.dtype.name}: give numbers from 0 to {count - 1}")
    wrong = array[(array < 0) | (array >= count)]
    if wrong.size:
        raise Im2SpError(f"unit {wrong[0]} does not exist: this bundle has units from 0 to {count - 1}")
    return array.astype(np.int64)


def parse_units(text: str, count: int) -> IntArray:
    """Parse units such as "12 5 5 77" (blanks or commas between) -> int64 [U] from 0 to `count` - 1.

    Raises Im2SpError for text that is empty, too long, holds anything but numbers, or numbers out of range.
    """
    if len(text) > TEXT_LIMIT:
        raise Im2SpError(f"{len(text)} characters of units are too many: give at most {UNITS_LIMIT} units at a time")
    words = text.replace(",", " ").split()
    longest = len(str(count))
    for word in words:
        if not (word.isascii() and word.removeprefix("-").isdecimal()):
            raise Im2SpError(f"{word[:20]!r} is not a unit: give numbers from 0 to {count - 1} with blanks between")
        if len(word.lstrip("0")) > longest:  # checked here: it may not fit into 64 bits
            raise Im2SpError(f"unit {word[:20]} does not exist: this bundle has units from 0 to {count - 1}")
    return check_units(np.array([int(word[-20:]) for word in words], dtype=np.int64), count)
