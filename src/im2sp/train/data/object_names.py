"""Captions -> the COCO objects that they name, by the synonyms of CHAIR (Rohrbach et al., 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from im2sp.errors import Im2SpError, reason
from im2sp.train.data.words import FUNCTION_WORDS, normalise_words, singular

Phrase = tuple[str, ...]
Synonyms = Mapping[Phrase, str]  # words in the singular -> object; "" where the phrase names none

_NO_OBJECT = ("train track", "train station", "toilet paper", "table tennis", "bow and arrow")
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
_VEHICLES = ("airplane", "boat", "bus", "car", "train")
_ONE_OBJECT = (("baby", _ANIMALS), ("adult", _ANIMALS), ("passenger", _VEHICLES))  # "a baby elephant" is no person
_LONGEST_PHRASE = 4  # words
_COLOURS = ("black", "white", "red", "blue", "green", "yellow", "brown", "pink", "purple", "grey", "gray", "orange")


def read_synonyms(path: Path) -> Synonyms:
    """Read a line for each object: its name, then its synonyms, separated by commas.

    Raises Im2SpError when the file cannot be read or names no object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Im2SpError(f"the synonyms of objects {path} cannot be read ({reason(error)})") from error
    synonyms: dict[Phrase, str] = {}
    for line in lines:
        names = [name.strip() for name in line.split(",") if name.strip()]
        synonyms |= {_phrase(name): names[0] for name in names}
    if not synonyms:
        raise Im2SpError(f"{path} names no object: give a line for each object, its synonyms separated by commas")
    for first, kinds in _ONE_OBJECT:
        synonyms |= {(first, *phrase): name for phrase, name in synonyms.items() if name in kinds}
    if "toilet" in synonyms.values():
        synonyms[_phrase("toilet seat")] = "toilet"
    return synonyms | {_phrase(name): "" for name in _NO_OBJECT}


def named_objects(caption: str, synonyms: Synonyms) -> list[str]:
    """List the objects that a caption names, one entry a mention, the longest phrase first."""
    written = normalise_words(caption).split()
    words = [singular(word) for word in written]
    found, start = [], 0
    while start < len(words):
        lengths = range(min(_LONGEST_PHRASE, len(words) - start), 0, -1)
        length = next((n for n in lengths if tuple(words[start : start + n]) in synonyms), 0)
        name = synonyms[tuple(words[start : start + length])] if length else ""
        if name and not (written[start] == "orange" and _is_colour(words[start + 1 :])):
            found.append(name)
        start += length or 1
    return found


def _phrase(name: str) -> Phrase:
    return tuple(singular(word) for word in normalise_words(name).split())


def _is_colour(following: list[str]) -> bool:
    """Whether "orange" before these words is a colour: a noun follows, or "and" with another colour."""
    if not following:
        return False
    if following[0] == "and":
        return len(following) > 1 and following[1] in _COLOURS
    return following[0] not in FUNCTION_WORDS
