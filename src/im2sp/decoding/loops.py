"""Loops in decoding: tokens in, how many of them stay when repeats are cut."""

from __future__ import annotations

from collections.abc import Sequence

MAX_PERIOD = 64  # tokens; longer cycles are not looked for


def length_without_loop(tokens: Sequence[int], max_repeats: int) -> int:
    """Count the tokens up to the end of the first copy of the cycle that `tokens` ends in; all without a cycle.

    A cycle is `max_repeats` or more copies in a row of one sequence of at most MAX_PERIOD tokens; with 0 there is none.
    """
    if max_repeats == 0:
        return len(tokens)
    for period in range(1, min(MAX_PERIOD, len(tokens) // max_repeats) + 1):
        copies = _repeated(tokens, period) // period + 1
        if copies >= max_repeats:
            return len(tokens) - (copies - 1) * period
    return len(tokens)


def length_before_repeat(tokens: Sequence[int], max_repeats: int, limit: int) -> int:
    """Count the tokens, in no loop so far, that stay whatever follows: without those that may become copies in a loop.

    However `tokens` continue, up to `limit` tokens, `length_without_loop` leaves at least this many.
    """
    length = len(tokens)
    if max_repeats == 0:
        return length
    for period in range(1, min(MAX_PERIOD, limit // max_repeats, len(tokens) - 1) + 1):
        first_copy_ends = len(tokens) - _repeated(tokens, period)
        if first_copy_ends + (max_repeats - 1) * period <= limit:
            length = min(length, first_copy_ends)
    return length


def _repeated(tokens: Sequence[int], period: int) -> int:
    """Count the tokens at the end that equal the one a period before."""
    count = 0
    while count + period < len(tokens) and tokens[-1 - count] == tokens[-1 - count - period]:
        count += 1
    return count
