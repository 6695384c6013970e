"""Photos with known objects or of a known thing, without captions -> captions of other photos that fit.

Candidates name no object that is absent. The tagger finds those whose words suit the photo best; among these the most
typical come first, which are most similar to the others (consensus caption; Devlin et al., arXiv 1505.04467).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer

from im2sp.train.data.object_names import Synonyms, named_objects
from im2sp.train.data.photo_corpora import Captions, TextCaption, caption_words
from im2sp.train.data.words import FUNCTION_WORDS, singular


@dataclass(frozen=True)
class PseudoLabels:
    """Options of the stage."""

    captions: int = 4  # of a photo, at most
    object_gain: float = 0.15  # of the fit, for each object that is named
    suited: int = 300  # captions of the best fit, of which the most typical are chosen
    fit_weight: float = 0.5  # of the fit beside the similarity to other captions, both in standard deviations
    enough: int = 30  # candidates of photos with exactly the same objects; below it, those with similar ones join
    similarity: float = 0.6  # of two sets of objects, by Jaccard's index
    max_words: int = 16
    likely: float = 0.1  # probability of a word from which a caption may hold it where objects are not known
    max_candidates: int = 3000
    overlap: float = 0.7  # of the words of two chosen captions, at most


@dataclass(frozen=True)
class KnownPhoto:
    """What is known of a photo without captions.

    Attributes:
        fit: float32 [words], how well each word suits the photo.
        objects: all that a caption may name; captions of photos with the same objects are looked at.
        names: of the thing it shows, where that is known instead: captions that hold one of them are looked at.
        words: content words that a caption of such a photo may hold.
    """

    name: str
    fit: npt.NDArray[np.float32]
    objects: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()

    def suits(self, candidate: _Candidate) -> bool:
        """Whether a caption names nothing that the photo may not show."""
        if self.names:
            return candidate.content <= self.words
        return candidate.objects <= self.objects


class _Candidate:
    """A caption with what is looked at again and again."""

    def __init__(self, text: str, columns: Mapping[str, int], synonyms: Synonyms) -> None:
        self.text = text
        self.words = caption_words(text)
        self.columns = sorted({columns[word] for word in self.words if word in columns})
        self.objects = set(named_objects(text, synonyms))
        self.content = {singular(word) for word in self.words if word not in FUNCTION_WORDS}


def pseudo_labels(
    photos: Iterable[KnownPhoto],
    text: Iterable[TextCaption],
    words: Sequence[str],
    synonyms: Synonyms,
    options: PseudoLabels,
) -> Captions:
    """Choose captions for photos.

    Args:
        words: of the columns of each photo's `fit`.
    """
    columns = {word: column for column, word in enumerate(words)}
    by_objects: dict[frozenset[str], list[str]] = defaultdict(list)
    by_word: dict[str, list[str]] = defaultdict(list)
    for caption in text:
        by_objects[caption.objects].append(caption.text)
        for word in {singular(word) for word in caption_words(caption.text)}:
            by_word[word].append(caption.text)
    seen: dict[str, _Candidate] = {}
    found: Captions = {}
    for photo in photos:
        if photo.names:
            candidates = [text for name in photo.names for text in by_word[singular(name)][: options.max_candidates]]
        else:
            candidates = _candidates(photo.objects, by_objects, options)
        for sentence in candidates:
            if sentence not in seen:
                seen[sentence] = _Candidate(sentence, columns, synonyms)
        scored = {
            c.text: float(photo.fit[c.columns].mean()) + options.object_gain * len(c.objects)
            for c in map(seen.__getitem__, candidates)
            if len(c.columns) > 1 and photo.suits(c) and len(c.words) <= options.max_words
        }
        if scored:
            suited = sorted(scored, key=lambda text: (-scored[text], text))[: options.suited]
            found[photo.name] = _different(_typical(suited, [scored[text] for text in suited], options), options)
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


def _typical(captions: list[str], fits: list[float], options: PseudoLabels) -> list[str]:
    """Sort captions, the most typical and fitting first."""
    fit = np.array(fits)
    trigrams = TfidfVectorizer(tokenizer=caption_words, token_pattern=None, ngram_range=(1, 3), sublinear_tf=True)
    vectors = trigrams.fit_transform(captions)
    weights = np.exp(2 * (fit - fit.max()))
    typical = np.asarray(vectors @ (vectors.T @ weights)) - weights  # without the similarity of each to itself, 1
    score = _standard(typical) + options.fit_weight * _standard(fit)
    return [captions[place] for place in np.argsort(-score, kind="stable")]


def _standard(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (values - values.mean()) / (values.std() + 1e-6)


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
