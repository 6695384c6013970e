"""New recordings of single words, in which they are said more clearly: further ways to say what is misheard.

A lexicon has each word as it is said amid a sentence. Said by itself, or more slowly, it keeps ends that are swallowed
there ("parked on").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from im2sp.arrays import FloatArray, IntArray
from im2sp.train.data.photo_corpora import caption_words
from im2sp.train.data.speech_shards import as_floats
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig, clean_text
from im2sp.train.lexicon.lexicon import SILENCES, Spoken, spoken
from im2sp.train.lexicon.medoids import align

SLOWER = 1.15  # length scale of the second voice
_ALONE = ("{}.", "{}, {}.")  # sentences that hold little but a word


class ClearSpeech:
    """A word, and sentences that hold it -> units of the word in recordings of these and of the word by itself.

    Args:
        encode: waveform float32 [samples], 16 kHz -> units [F], 50 Hz.
    """

    def __init__(self, config: SynthesisConfig, encode: Callable[[FloatArray], IntArray]) -> None:
        self._voices = [PiperSynthesizer(config), PiperSynthesizer(replace(config, length_scale=SLOWER))]
        self._encode = encode

    def ways(self, word: str, sentences: Sequence[str]) -> list[Spoken]:
        """Ways to say a word, each once."""
        texts = [*sentences, *(form.format(word, word) for form in _ALONE)]
        found = (self._in_text(word, text, voice) for text in texts for voice in self._voices)
        return list(dict.fromkeys(way for ways in found for way in ways if way))

    def _in_text(self, word: str, text: str, voice: PiperSynthesizer) -> Iterator[Spoken]:
        said = voice.synthesize(clean_text(text))
        units = self._encode(as_floats(said.waveform))
        words = [one for one in align(said.phones, said.phone_samples, units) if one.phones not in SILENCES]
        letters = caption_words(text)
        if len(words) == len(letters):  # otherwise, which is which is not known
            yield from (spoken(one.units) for one, letter in zip(words, letters, strict=True) if letter == word)
