"""Photos with known objects and no captions -> captions that people wrote of other photos and that fit.

Candidates name no object that is absent. Those come first whose words are most likelier about this photo, by the
tagger, than about photos in general.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from im2sp.train.data.object_names import Synonyms, named_objects
from im2sp.train.data.photo_corpora import Captions, TextCaption, caption_words


@dataclass(frozen=True)
class PseudoLabels:
    """Options of the stage."""

    captions: int = 4  # of a photo, at most
    min_lift: float = 0.2  # of the best caption; other photos get none
    object_gain: float = 0.15  # of the score, for each object that is named
    enough: int = 30  # candidates of photos with exactly the same objects; below it, those with similar ones join
    similarity: float = 0.6  # of two sets of objects, by Jaccard's index
    max_words: int = 16
    max_candidates: int = 3000
    overlap: float = 0.7  # of the words of two chosen captions, at most


class _Candidate:
    """A caption with what is looked at again and again."""

    def __init__(self, text: str, columns: Mapping[str, int], synonyms: Synonyms) -> None:
        self.text = text
        self.words = caption_words(text)
        self.columns = sorted({columns[word] for word in self.words if word in columns})
        self.objects = set(named_objects(text, synonyms))


def pseudo_labels(
    objects: Mapping[str, Sequence[str]],
    text: Iterable[TextCaption],
    lift: Mapping[str, npt.NDArray[np.float32]],
    words: Sequence[str],
    synonyms: Synonyms,
    options: PseudoLabels,
) -> Captions:
    """Choose captions for photos.

    Args:
        objects: of the photos that are to be described.
        lift: photo -> log of how much likelier each word is about it than about photos in general.
        words: of the columns of `lift`.
    """
    columns = {word: column for column, word in enumerate(words)}
    by_objects: dict[frozenset[str], list[str]] = defaultdict(list)
    for caption in text:
        by_objects[caption.objects].append(caption.text)
    seen: dict[str, _Candidate] = {}
    found: Captions = {}
    for photo, present in objects.items():
        candidates = _candidates(frozenset(present), by_objects, options)
        for sentence in candidates:
            if sentence not in seen:
                seen[sentence] = _Candidate(sentence, columns, synonyms)
        scored = sorted(
            (
                (float(lift[photo][c.columns].mean()) + options.object_gain * len(c.objects), c.text)
                for c in map(seen.__getitem__, candidates)
                if len(c.columns) > 1 and c.objects.issubset(present) and len(c.words) <= options.max_words
            ),
            reverse=True,
        )
        if scored and scored[0][0] > options.min_lift:
            found[photo] = _different((text for _, text in scored), options)
    return found


def _candidates(
    present: frozenset[str], by_objects: Mapping[frozenset[str], list[str]], options: PseudoLabels
) -> list[str]:
    found = list(by_objects.get(present, []))
    if len(found) < options.enough:
        for other, captions in by_objects.items():
            if other != present and len(other & present) >= options.similarity * len(other | present) > 0:
                found += captions
    return found[: options.max_candidates]


def _different(captions: Iterable[str], options: PseudoLabels) -> list[str]:
    """Return the first captions of which no two share most of their words."""
    chosen: list[str] = []
    for caption in captions:
        words = set(caption_words(caption))
        others = [set(caption_words(other)) for other in chosen]
        if all(len(words & other) < options.overlap * len(words | other) for other in others):
            chosen.append(caption)
        if len(chosen) == options.captions:
            break
    return chosen
