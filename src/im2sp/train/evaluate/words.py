"""Word error rate of sentences. What cannot be heard (spelling, punctuation) is no error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from im2sp.errors import Im2SpError
from im2sp.installing import require_extra
from im2sp.train.data.words import normalise_words


def differences(reference: str, hypothesis: str) -> list[tuple[slice, slice]]:
    """Where the words of two sentences, after `normalise_words`, differ: places in one and in the other.

    By the alignment that the word error rate counts. Raises Im2SpError when jiwer is missing.
    """
    with require_extra("train"):
        import jiwer
    spoken, heard = normalise_words(reference), normalise_words(hypothesis)
    if not spoken or not heard:  # jiwer refuses empty references
        counts = len(spoken.split()), len(heard.split())
        return [(slice(0, counts[0]), slice(0, counts[1]))] if any(counts) else []
    return [
        (slice(piece.ref_start_idx, piece.ref_end_idx), slice(piece.hyp_start_idx, piece.hyp_end_idx))
        for piece in jiwer.process_words(spoken, heard).alignments[0]
        if piece.type != "equal"
    ]


@dataclass(frozen=True)
class WordErrorRate:
    """How much of what was said was not understood. Rates are percentages of the reference words."""

    rate: float
    low: float  # ends of the 95 % interval
    high: float
    errors: int  # substitutions, deletions and insertions
    words: int  # of the references
    sentences: int


def word_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], *, seed: int = 0, resamples: int = 2_000
) -> WordErrorRate:
    """Word error rate over all sentences after `normalise_words`, with its 95 % interval.

    The interval is the percentile bootstrap over sentences: `resamples` draws with replacement, seeded.
    Raises Im2SpError when the references hold no words, or jiwer is missing.
    """
    counts = np.zeros((len(references), 2), dtype=np.int64)  # errors, words
    for row, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        wrong = differences(reference, hypothesis)
        counts[row, 0] = sum(max(one.stop - one.start, other.stop - other.start) for one, other in wrong)
        counts[row, 1] = len(normalise_words(reference).split())
    errors, words = (int(total) for total in counts.sum(axis=0))
    if words == 0:
        raise Im2SpError("the references hold no words: a word error rate needs some")
    drawn = np.random.default_rng(seed).integers(len(counts), size=(resamples, len(counts)))
    sums = counts[drawn].sum(axis=1)
    low, high = np.percentile(100 * sums[:, 0] / np.maximum(sums[:, 1], 1), [2.5, 97.5])
    return WordErrorRate(100 * errors / words, float(low), float(high), errors, words, len(references))
