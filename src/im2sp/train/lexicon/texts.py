"""Texts that the lexicon is made for: captions of train photos, and sentences with the names of ImageNet classes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from im2sp.train.data.photo_corpora import PhotoCorpora
from im2sp.train.data.synthesis import clean_text

_TEMPLATES = (
    "A photo of {} in the grass.",
    "There is {} on a table in front of a window.",
    "A man is standing next to {} on the street.",
    "{} with a white background.",
    "The picture shows {} near some trees.",
    "A close up of {} sitting on the ground.",
    "Perhaps {}.",
)
_ABSTAIN = "I cannot tell what this shows."
_CLASS_SENTENCES = 3  # for each class of ImageNet
_CLASS_COUNT = 2  # how often such a sentence counts
_HELD_OUT = 1000  # captions that are never recorded, to measure on


def read_texts(corpora: PhotoCorpora, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Texts as they are spoken and how often each occurs; and captions that are held out.

    Captions of dev photos are in neither.
    """
    said = [text for captions in corpora.captions.values() for texts in captions.values() for text in texts]
    captions = Counter(filter(None, map(clean_text, [*said, *(caption.text for caption in corpora.text)])))
    held_out = rng.sample(sorted(captions), min(_HELD_OUT, len(captions) // 10))
    for text in held_out:
        del captions[text]
    for text in (_ABSTAIN, *_class_sentences(corpora.class_names, rng)):
        captions[clean_text(text)] += _CLASS_COUNT
    return captions, held_out


def _class_sentences(names: list[str], rng: random.Random) -> Iterator[str]:
    """Sentences with the name of each class."""
    for name in names:
        thing = ("an " if name[0].lower() in "aeiou" else "a ") + name
        for template in rng.sample(_TEMPLATES, _CLASS_SENTENCES):
            text = template.format(thing)
            yield text[0].upper() + text[1:]
