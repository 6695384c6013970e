"""How sure a difference of caption scores is: two sets of captions of the same photos -> 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError, require_extra
from im2sp.train.evaluate.caption_metrics import cider_of_each
from im2sp.train.evaluate.words import normalise_words

Captions = Mapping[str, str]  # image id -> sentence
References = Mapping[str, Sequence[str]]  # image id -> what people wrote
ORDERS = 4  # of BLEU-4


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of two, with its 95 % interval over photos."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CaptionStatistics:
    """What the scores of any of the photos follow from; the words are those that `normalise_words` leaves.

    The PTB tokeniser of `caption_scores` splits a few words otherwise, which moves scores by some tenths.
    """

    counts: npt.NDArray[np.float64]  # [photos, 2 * ORDERS + 2]: n-grams right, n-grams, words, words of the reference
    cider: npt.NDArray[np.float64]  # [photos], with document frequencies of all these photos

    @classmethod
    def of(cls, captions: Captions, references: References) -> CaptionStatistics:
        """Of captions of photos, in the order of their ids.

        Raises:
            Im2SpError: a photo has no references.
        """
        if lonely := sorted(set(captions) - set(references)):
            raise Im2SpError(f"photo {lonely[0]} has no references")
        with require_extra("train"):
            from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        images, scorer = sorted(captions), BleuScorer(n=ORDERS)
        for image in images:
            scorer += (normalise_words(captions[image]), [normalise_words(text) for text in references[image]])
        rows = []
        for found in scorer.ctest:
            words = found["testlen"]
            nearest = min(found["reflen"], key=lambda length: (abs(length - words), length))
            rows.append([*found["correct"], *found["guess"], words, nearest])
        each = cider_of_each({image: captions[image] for image in images}, references)
        return cls(np.array(rows, dtype=np.float64), np.array([each[image] for image in images]))

    def bleu4(self, rows: npt.NDArray[np.int64]) -> float:
        """BLEU-4 in per cent of some of the photos together."""
        sums = self.counts[rows].sum(0)
        right, all_of_them, (words, wanted) = sums[:ORDERS], sums[ORDERS : 2 * ORDERS], sums[2 * ORDERS :]
        if not right.all():
            return 0.0
        brevity = min(1.0, np.exp(1 - wanted / max(1.0, words)))
        return float(100 * brevity * np.exp(np.log(right / all_of_them).mean()))

    def cider_of(self, rows: npt.NDArray[np.int64]) -> float:
        """CIDEr-D of some of the photos together."""
        return float(self.cider[rows].mean())


def intervals(
    these: CaptionStatistics, those: CaptionStatistics | None = None, seed: int = 0, resamples: int = 1000
) -> dict[str, Interval]:
    """Percentile bootstrap over photos: `bleu4` and `cider` of `these`, less those of `those` about the same photos.

    Raises:
        Im2SpError: the two are not about as many photos.
    """
    photos = len(these.cider)
    if those is not None and len(those.cider) != photos:
        raise Im2SpError(f"captions of {photos} photos cannot be compared with those of {len(those.cider)}")
    drawn = np.random.default_rng(seed).integers(photos, size=(resamples, photos))
    every = np.arange(photos)

    def interval(score: str) -> Interval:
        def value(rows: npt.NDArray[np.int64]) -> float:
            found: float = getattr(these, score)(rows)
            return found - getattr(those, score)(rows) if those else found

        values: FloatArray = np.array([value(rows) for rows in drawn])
        low, high = np.percentile(values, [2.5, 97.5])
        return Interval(value(every), float(low), float(high))

    return {"bleu4": interval("bleu4"), "cider": interval("cider_of")}
