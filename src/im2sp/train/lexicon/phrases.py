"""Fixed phrases of a bundle, "perhaps" and "I cannot tell what this shows": a voice in; units and durations out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from im2sp.arrays import HOP, IntArray
from im2sp.captioner import Captioner
from im2sp.speech.durations import LONGEST_UNIT
from im2sp.speech.units import remove_repeats
from im2sp.train.data.speech_shards import as_floats
from im2sp.train.data.synthesis import PiperSynthesizer
from im2sp.train.evaluate.calibration import SpokenPhrase
from im2sp.train.evaluate.recogniser import Recogniser
from im2sp.train.evaluate.words import word_error_rate
from im2sp.train.lexicon.lexicon import LexiconSpeaker, PronunciationLexicon, frames_of

ABSTAIN = ("I cannot tell what this shows.", "I can't tell what this shows.", "I am not sure what this shows.")
HEDGE = ("Perhaps, a dog is running.", "Maybe, a dog is running.")  # what precedes the comma is the phrase


def speak_phrase(
    texts: tuple[str, ...],
    captioner: Captioner,
    voice: PiperSynthesizer,
    recogniser: Recogniser,
    lexicon: PronunciationLexicon | None = None,
) -> SpokenPhrase:
    """Say a phrase in units; of several texts and ways the one that the recogniser understands best.

    The ways are the lexicon, where it has all words, and the bundle's speech encoder on the voice. Of a text with a
    comma, only what precedes the comma is the phrase; the rest is spoken by the bundle to hear the two together.

    Raises BundleError for a bundle without speech encoder.
    """
    tried = []
    for text in texts:
        for frames, phrase_frames in _ways(text, captioner, voice, lexicon):
            units, durations = _spoken(frames[:phrase_frames])
            waveform = captioner.speak(units, durations).waveform
            if phrase_frames < len(frames):
                rest = captioner.speak(_spoken(frames[phrase_frames:])[0]).waveform
                waveform = np.concatenate([waveform, rest])
            heard = recogniser.transcribe(waveform)
            errors = word_error_rate([text], [heard]).rate
            tried.append(SpokenPhrase(text, units.tolist(), durations.tolist(), heard, errors))
    return min(tried, key=lambda one: one.word_error_rate)


def _ways(
    text: str, captioner: Captioner, voice: PiperSynthesizer, lexicon: PronunciationLexicon | None
) -> Iterator[tuple[IntArray, int]]:
    """Units int64 [F] of the frames of a text, and how many of them are the phrase, in each way to say it."""
    if lexicon is not None and (said := LexiconSpeaker(lexicon, voice.phones).said(text)) is not None:
        names, words = zip(*said, strict=True)
        count = names.index(",") + 1 if "," in names else len(names)
        yield frames_of(words).astype(np.int64), len(frames_of(words[:count]))
    whole = voice.synthesize(text)
    frames = captioner.units(as_floats(whole.waveform))
    count = whole.phones.index(",") + 1 if "," in whole.phones else len(whole.phones)
    yield frames, min(len(frames), round(int(whole.phone_samples[:count].sum()) / HOP))


def _spoken(frames: IntArray) -> tuple[IntArray, IntArray]:
    """Units of frames -> units and durations."""
    units, durations = remove_repeats(frames)
    return units, np.minimum(durations, LONGEST_UNIT)
