"""Sentences -> comparable words -> word error rate. What cannot be heard (spelling, punctuation) is no error."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from im2sp.errors import Im2SpError, require_extra

_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_DIGITS = {str(number): word for number, word in enumerate(_NUMBERS)}
_ENGLISH = """
a about above across after against all along also an and another any are around as at away be been before behind
being below beneath beside between both but by can do does doing down during each for from get getting has have
having he her hers him his how i in inside into is it its just like near next no not of off on one onto or other
out outside over own past several she so some something someone than that the their them then there these they
this those through to together toward towards two three four under up upon very was we were what when where which
while who whose with within without you your
"""
FUNCTION_WORDS = frozenset(_ENGLISH.split())  # say nothing about what a photo shows
_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "mice": "mouse", "geese": "goose",
    "feet": "foot", "teeth": "tooth", "knives": "knife", "calves": "calf", "wolves": "wolf", "leaves": "leaf",
    "loaves": "loaf", "shelves": "shelf", "halves": "half", "scarves": "scarf", "buses": "bus", "shoes": "shoe",
    "canoes": "canoe", "toes": "toe", "policemen": "policeman", "firemen": "fireman", "snowmen": "snowman",
}  # fmt: skip
_T_SHIRT = re.compile(r"\b(?:t|tee)[- ]?shirt(s?)\b")


def normalise_words(text: str) -> str:
    """A sentence as words with single blanks between them, so that two ways to write the same sound compare equal.

    In this order:
    1. Compatibility forms become plain ones (NFKC) and everything lower case; accents stay.
    2. `&` becomes `and`.
    3. `T-shirt`, `t shirt`, `tee shirt` and `tee-shirt` become `tshirt`, plurals `tshirts`: one word.
    4. Apostrophes vanish (`dog's` and `dogs` sound the same; `it's` becomes `its`); all other punctuation, hyphens
       and slashes included, becomes a blank (`brown-haired` is two words).
    5. Whole numbers from 0 to 20 in digits become words: recognisers write `2`, people write `two`. Larger numbers
       and digits inside a word (`3d`, `1st`) stay.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("&", " and ")
    text = _T_SHIRT.sub(r"tshirt\1", text)
    text = re.sub("['\u2018\u2019\u02bc`]", "", text)
    text = re.sub(r"[\W_]+", " ", text)
    return " ".join(_DIGITS.get(word, word) for word in text.split())


def singular(word: str) -> str:
    """Reduce an English plural to the same form as its singular; other words stay as they are."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zzes", "oes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


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
    Raises Im2SpError when the two differ in length, the references hold no words, or jiwer is missing.
    """
    with require_extra("train"):
        import jiwer
    if len(references) != len(hypotheses):
        raise Im2SpError(f"{len(references)} references but {len(hypotheses)} hypotheses: give one to each")
    counts = np.zeros((len(references), 2), dtype=np.int64)  # errors, words
    for row, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        spoken, heard = normalise_words(reference), normalise_words(hypothesis)
        if not spoken:  # jiwer refuses an empty reference; every word heard is then an insertion
            counts[row] = len(heard.split()), 0
            continue
        measured = jiwer.process_words(spoken, heard)
        counts[row] = measured.substitutions + measured.deletions + measured.insertions, len(spoken.split())
    errors, words = (int(total) for total in counts.sum(axis=0))
    if words == 0:
        raise Im2SpError("the references hold no words: a word error rate needs some")
    drawn = np.random.default_rng(seed).integers(len(counts), size=(resamples, len(counts)))
    sums = counts[drawn].sum(axis=1)
    low, high = np.percentile(100 * sums[:, 0] / np.maximum(sums[:, 1], 1), [2.5, 97.5])
    return WordErrorRate(100 * errors / words, float(low), float(high), errors, words, len(references))
