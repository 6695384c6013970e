"""Captions and what is known of their photos in; which captions are correct out.

A caption of a photo with references is correct when

- at least half of its content words stand in the references,
- one of these words is telling: it stands in less than a tenth of the references of all other photos,
- it names no object (CHAIR) that is neither in the photo nor in a reference.

A caption of a photo of one thing is correct when it names that thing, and no object that is known to be absent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from im2sp.train.data.object_names import named_objects
from im2sp.train.data.photo_corpora import names_thing
from im2sp.train.data.words import FUNCTION_WORDS, normalise_words, singular
from im2sp.train.evaluate.chair import ObjectLabels

RULE = (
    "correct: at least half of the content words stand in the references, one of them in less than a tenth of all "
    "references, and no named object is neither in the photo nor in a reference; of photos of one thing: it is named"
)
_SHARE = 0.5  # of the content words
_COMMON = 0.1  # of the references of other photos
_DEALS = 10  # of the captions to other photos


class CorrectnessRule:
    """Tell correct captions of a set of photos."""

    def __init__(
        self,
        references: Mapping[str, Sequence[str]],
        labels: ObjectLabels | None = None,
        things: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """What is known of the photos.

        Args:
            references: captions by people.
            labels: without them, objects are not checked.
            things: phrases that name the main thing, of photos without references.
        """
        self._references = references
        self._labels = labels or ObjectLabels({}, {})
        self._things = things or {}
        self._words = {photo: _content(texts) for photo, texts in references.items()}
        self._telling = _telling_words(references)
        self._present = {
            photo: {*self._labels.objects.get(photo, ()), *self._named(texts)} for photo, texts in references.items()
        }

    def is_correct(self, caption: str, photo: str) -> bool:
        """Whether a caption is correct about a photo."""
        if photo in self._things:
            known = self._labels.objects.get(photo)
            return names_thing(caption, self._things[photo]) and (known is None or self._named([caption]) <= {*known})
        return self._agrees(caption, photo, self._words[photo], self._present[photo])

    def human_rate(self) -> float:
        """Share of first references that are correct by the other ones of their photo."""
        several = {photo: texts for photo, texts in self._references.items() if len(texts) > 1}
        if not several:
            return 0.0
        correct = [
            self._agrees(first, photo, _content(others), {*self._labels.objects.get(photo, ()), *self._named(others)})
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

    def _agrees(self, caption: str, photo: str, words: set[str], present: set[str]) -> bool:
        said = _content([caption])
        matching = said & words
        return (
            len(matching) >= _SHARE * len(said)
            and not matching.isdisjoint(self._telling[photo])
            and self._named([caption]) <= present
        )


def _telling_words(references: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """Words of each photo's references that stand in few references of other photos."""
    of_photo = {
        photo: Counter(word for text in texts for word in _content([text])) for photo, texts in references.items()
    }
    of_all = sum(of_photo.values(), Counter[str]())
    sentences = sum(map(len, references.values()))
    return {
        photo: {
            word
            for word, count in counts.items()
            if of_all[word] - count <= _COMMON * (sentences - len(references[photo]))
        }
        for photo, counts in of_photo.items()
    }


def _content(texts: Iterable[str]) -> set[str]:
    """Content words in the singular."""
    return {singular(word) for text in texts for word in normalise_words(text).split() if word not in FUNCTION_WORDS}
