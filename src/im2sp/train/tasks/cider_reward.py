"""CIDEr-D of token sentences, fast enough to be a reward (Vedantam et al., 2015, section 6)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

ORDERS = (1, 2, 3, 4)  # lengths of n-grams
SIGMA = 6.0  # tokens; how much a difference of length costs
SCALE = 10.0

_Gram = tuple[int, ...]


@dataclass(frozen=True)
class _Vector:
    """A sentence as weighted n-grams."""

    weights: tuple[dict[_Gram, float], ...]  # of each order
    norms: tuple[float, ...]
    length: int  # bigrams, as the published program counts


class CiderD:
    """Scores sentences against the references of their photo; rare n-grams of all references weigh most."""

    def __init__(self, references: dict[str, list[list[int]]]) -> None:
        """`references`: token sentences of every photo, without BOS; an EOS counts as a token like any other."""
        self._references = references
        self._vectors: dict[str, list[_Vector]] = {}
        self._photos_with: Counter[_Gram] = Counter()
        for sentences in references.values():
            self._photos_with.update({gram for sentence in sentences for gram in _grams(sentence)})
        self._log_photos = math.log(max(1, len(references)))

    def score(self, image_id: str, sentence: Sequence[int]) -> float:
        """CIDEr-D of a sentence about a photo, from 0 to 10."""
        if image_id not in self._vectors:
            self._vectors[image_id] = [self._vector(reference) for reference in self._references[image_id]]
        said, references = self._vector(sentence), self._vectors[image_id]
        return SCALE * sum(_similarity(said, reference) for reference in references) / len(references)

    def _vector(self, sentence: Sequence[int]) -> _Vector:
        weights: tuple[dict[_Gram, float], ...] = tuple({} for _ in ORDERS)
        for gram, count in _grams(sentence).items():
            rarity = self._log_photos - math.log(max(1, self._photos_with[gram]))
            weights[len(gram) - 1][gram] = count * rarity
        norms = tuple(math.sqrt(sum(weight**2 for weight in order.values())) for order in weights)
        return _Vector(weights, norms, max(0, len(sentence) - 1))


def _grams(sentence: Sequence[int]) -> Counter[_Gram]:
    return Counter(tuple(sentence[i : i + n]) for n in ORDERS for i in range(len(sentence) - n + 1))


def _similarity(said: _Vector, reference: _Vector) -> float:
    total = 0.0
    for own, other, norm, other_norm in zip(said.weights, reference.weights, said.norms, reference.norms, strict=True):
        if norm and other_norm:
            shared = sum(min(weight, other[gram]) * other[gram] for gram, weight in own.items() if gram in other)
            total += shared / (norm * other_norm)
    return total / len(ORDERS) * math.exp(-((said.length - reference.length) ** 2) / (2 * SIGMA**2))
