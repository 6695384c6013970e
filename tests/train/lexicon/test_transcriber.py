"""Spellings of the words that the lexicon reads in units."""

from __future__ import annotations

from im2sp.train.data.synthesis import END, START
from im2sp.train.lexicon.lexicon import PAUSE, PronunciationLexicon
from im2sp.train.lexicon.transcriber import LexiconTranscriber

LEXICON = PronunciationLexicon(
    {(None, START, None): (9,), (None, "ə", None): (1,), (None, "dɔg", None): (2, 3), (None, "siː", None): (4, 5),
     (None, END, None): (8,)}
)  # fmt: skip
SOUNDS = {"a": "ə", "dog": "dɔg", "sea": "siː", "see": "siː", "20": "twɛntiː" + PAUSE + "wʌn"}


def phonemize(text: str) -> list[str]:
    spoken = PAUSE.join(SOUNDS[word] for word in text.strip(".").lower().split())
    return [START, *spoken, ".", END]


def test_words_are_spelled_as_most_texts_do() -> None:
    transcriber = LexiconTranscriber(LEXICON, ["A dog", "A sea", "A sea", "see a dog", "20 dog", " "], phonemize)
    assert transcriber.text([9, 1, 2, 3, 8]) == "a dog"
    assert transcriber.text([9, 4, 5, 1, 2, 3, 8]) == "sea a dog"
    assert transcriber.text([9, 1, 7, 2, 3, 8]) == "a dog"  # no entry has unit 7
