"""Captions and their references in; which captions are correct out.

A caption is correct when at least half of its content words stand in the references of its photo, and it names no
object (CHAIR) that is neither in the photo nor in a reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from im2sp.train.data.object_names import named_objects
from im2sp.train.data.words import FUNCTION_WORDS, normalise_words, singular
from im2sp.train.evaluate.chair import ObjectLabels

RULE = (
    "correct: at least half of the content words stand in the references, and no named object is neither in the photo "
    "nor in a reference"
)
_SHARE = 0.5
_DEALS = 10  # of the captions to other photos


class CorrectnessRule:
    """Tell correct captions of a set of photos."""

    def __init__(self, references: Mapping[str, Sequence[str]], labels: ObjectLabels | None = None) -> None:
        """`references`: captions by people of every photo; `labels`: without them, objects are not checked."""
        self._references = references
        self._labels = labels or ObjectLabels({}, {})
        self._words = {photo: _content(texts) for photo, texts in references.items()}
        self._present = {
            photo: {*self._labels.objects.get(photo, ()), *self._named(texts)} for photo, texts in references.items()
        }

    def is_correct(self, caption: str, photo: str) -> bool:
        """Whether a caption is correct about a photo."""
        return self._agrees(caption, self._words[photo], self._present[photo])

    def human_rate(self) -> float:
        """Share of first references that are correct by the other ones of their photo."""
        several = {photo: texts for photo, texts in self._references.items() if len(texts) > 1}
        if not several:
            return 0.0
        correct = [
            self._agrees(first, _content(others), {*self._labels.objects.get(photo, ()), *self._named(others)})
            for photo, (first, *others) in several.items()
        ]
        return float(np.mean(correct))

    def chance_rate(self, captions: Mapping[str, str], seed: int = 0) -> float:
        """Share of captions that are correct about a random other photo."""
        photos, generator = list(captions), np.random.default_rng(seed)
        if len(photos) < 2:
            return 0.0
        found = []
        for _ in range(_DEALS):
            order = generator.permutation(len(photos))
            for one, other in zip(order, np.roll(order, 1), strict=True):
                found.append(self.is_correct(captions[photos[one]], photos[other]))
        return float(np.mean(found))

    def _named(self, texts: Iterable[str]) -> set[str]:
        return {name for text in texts for name in named_objects(text, self._labels.synonyms)}

    def _agrees(self, caption: str, words: set[str], present: set[str]) -> bool:
        said = _content([caption])
        return bool(said) and len(said & words) >= _SHARE * len(said) and self._named([caption]) <= present


def _content(texts: Iterable[str]) -> set[str]:
    """Content words in the singular."""
    return {singular(word) for text in texts for word in normalise_words(text).split() if word not in FUNCTION_WORDS}
