"""Captions -> unit table: each sentence in the units of the lexicon (normalized units)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from im2sp.speech.audio import UNIT_RATE
from im2sp.train.data.synthesis import clean_text
from im2sp.train.data.unit_table import UnitRow, write_unit_table
from im2sp.train.lexicon.lexicon import PronunciationLexicon, Units, frames_of, words_of

log = logging.getLogger(__name__)

_CACHED_TEXTS = 50_000  # sentences of a captioner come again and again

Phonemize = Callable[[str], list[str]]  # text -> phones, as the voice says them


@dataclass(frozen=True)
class TextCaption:
    """A caption of a photo, written by a person or a captioner."""

    image_id: str
    text: str
    split: str = "train"  # or "dev"


class LexiconSpeaker:
    """Text -> units by the lexicon."""

    def __init__(self, lexicon: PronunciationLexicon, phonemize: Phonemize) -> None:
        self.lexicon = lexicon
        self._phonemize = phonemize
        self.words = lru_cache(_CACHED_TEXTS)(self._words)

    def _words(self, text: str) -> tuple[Units, ...] | None:
        """Text -> units of each word, silences included, repeats kept; None when a word has no entry."""
        cleaned = clean_text(text)
        words = self.lexicon.pronounce(words_of(self._phonemize(cleaned))) if cleaned else None
        return tuple(words) if words else None


def write_caption_units(
    captions: Iterable[TextCaption], speaker: LexiconSpeaker, voice: str, description: dict[str, str | int], path: Path
) -> int:
    """Write a unit table of captions; returns how many were left out because a word has no entry.

    Args:
        voice: name of the speaker.
        description: of the lexicon, for the metadata of the table.
    """
    rows, left_out = [], 0
    for number, caption in enumerate(captions):
        if (words := speaker.words(caption.text)) is None:
            left_out += 1
            continue
        units, frames = frames_of(words), np.array([len(word) for word in words], np.uint16)
        name, seconds = f"{caption.image_id}#{number}", len(units) / UNIT_RATE
        row = UnitRow(caption.image_id, name, units, caption.split, voice, seconds, caption.text, word_frames=frames)
        rows.append(row)
    write_unit_table(path, rows, description)
    log.info("%s: %d captions left out, as a word has no entry", path, left_out)
    return left_out
