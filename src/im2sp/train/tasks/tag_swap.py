"""Augmentation that teaches a captioner to say its tags: a tag and the same word in the captions become another word.

A decoder that was trained on few captions says frequent words, whatever the tags are. Here the name of a random class
of the image classifier replaces a tag, that word of the captions and the most probable class; only the cells still show
the other thing. Words that no caption ever held are learnt so, too (compare Hendricks et al. 2016, Deep Compositional
Captioning, which replaces words after training).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from im2sp.train.data.photo_corpora import PhotoCorpora, caption_words
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.data.words import FUNCTION_WORDS
from im2sp.train.models.unit_captioner import TaggedUnits

FIRST_TAGS = 5  # of which one is swapped
MIN_SCORE = 0.25  # of a tag that is swapped
NOT_A_THING = (
    "young white black red blue brown green yellow large small standing sitting wearing playing walking running riding "
    "holding street grass water snow field beach"
)  # frequent tags in whose place no name of a thing can stand


@dataclass(frozen=True)
class TagSwap:
    """Swap tags.

    Attributes:
        share: of the photos, if one of their tags stands in their captions.
        names: class -> token of the last word of its name.
        kept: tokens that are not swapped.
        articles: tokens of "a" and "an".
        vowels: tokens of words that begin with a vowel.
    """

    share: float
    names: Sequence[tuple[int, int]]
    kept: Collection[int]
    articles: tuple[int, int]
    vowels: Collection[int]

    @classmethod
    def of(cls, corpora: PhotoCorpora, tokenizer: TextTokenizer, share: float) -> TagSwap:
        """Swap in all names of classes but those of held-out things."""
        held_out = {word for phrases in corpora.things.values() for word in caption_words(" ".join(phrases))}
        held_out |= {word for photo in corpora.things for word in caption_words(photo.replace("_", " "))}
        names = []
        for number, name in enumerate(corpora.class_names):
            words = caption_words(name)
            token = tokenizer.tokens_of(words[-1:])
            if token and not held_out & set(words) and words[-1] not in FUNCTION_WORDS:
                names.append((number, token[0]))
        vocabulary = tokenizer.words
        return cls(
            share,
            names,
            frozenset(tokenizer.tokens_of(NOT_A_THING.split())),
            tuple(tokenizer.encode("a an")[1:3]),  # type: ignore[arg-type]
            frozenset(token for word, token in vocabulary.items() if word[0] in "aeiou"),
        )

    def __call__(
        self, seen: TaggedUnits, sentences: list[list[list[int]]], first_class: int, random: np.random.Generator
    ) -> tuple[TaggedUnits, list[list[list[int]]]]:
        """Swap a tag of some photos; of their sentences, those with the new word remain.

        Args:
            first_class: column of the most probable class in the units.
        """
        units, tags, scores = seen.units.clone(), seen.tags.clone(), seen.scores.clone()
        found = []
        for row, said in enumerate(sentences):
            place = self._place(tags[row], scores[row], said, random)
            if place is not None:
                old = int(tags[row, place])
                number, new = self.names[int(random.integers(len(self.names)))]
                said = [self._replace(sentence, old, new) for sentence in said if old in sentence]
                tags[row, place], units[row, first_class] = new, number
                scores[row, place] = random.uniform(0.4, 1.0)
            found.append(said)
        return TaggedUnits(units, tags, scores), found

    def _place(
        self, tags: Tensor, scores: Tensor, said: Sequence[Sequence[int]], random: np.random.Generator
    ) -> int | None:
        if random.random() >= self.share:
            return None
        spoken = {token for sentence in said for token in sentence}
        places = [
            place
            for place, (tag, score) in enumerate(zip(tags.tolist(), scores.tolist(), strict=True))
            if place < FIRST_TAGS and score > MIN_SCORE and tag in spoken and tag not in self.kept
        ]
        return places[int(random.integers(len(places)))] if places else None

    def _replace(self, sentence: Sequence[int], old: int, new: int) -> list[int]:
        found: list[int] = []
        for token in sentence:
            if token == old and found and found[-1] in self.articles:
                found[-1] = self.articles[new in self.vowels]
            found.append(new if token == old else token)
        return found
