"""Recordings and their words in; how well they are understood after speech -> units -> speech out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from im2sp.arrays import FloatArray
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError
from im2sp.speech.units import remove_repeats
from im2sp.train.data.speech_shards import SpokenCaption, as_floats, read_shards
from im2sp.train.evaluate.recogniser import Recogniser
from im2sp.train.evaluate.words import word_error_rate

VARIANTS = ("original", "true_durations", "predicted_durations")


def read_recordings(folder: Path, split: str | None, limit: int) -> list[SpokenCaption]:
    """Read at most `limit` spoken captions with text of a split from shards; of all splits without one.

    Raises Im2SpError when there are none.
    """
    found = list(islice((one for one in read_shards(folder, split) if one.text), limit))
    if not found:
        raise Im2SpError(
            f"{folder} holds no recordings with text of the split {split}: give a folder of spoken captions"
        )
    return found


def resynthesis_errors(
    captioner: Captioner, recordings: Sequence[SpokenCaption], recogniser: Recogniser, cache: Path, seed: int = 0
) -> dict[str, Any]:
    """Word error rates of recordings, and of their units spoken with their own and with predicted durations.

    `cache`: of transcripts. Raises Im2SpError when the bundle has no speech encoder.
    """
    if captioner.bundle.config.speech_encoder is None:
        raise Im2SpError(f"the bundle {captioner.bundle.folder} has no speech encoder: evaluate it without recordings")
    clips = (
        (f"{one.caption_id}/{variant}", waveform)
        for one in recordings
        for variant, waveform in _variants(captioner, as_floats(one.waveform))
    )
    heard = recogniser.transcribe_all(clips, cache)
    texts, ids = [one.text for one in recordings], [one.caption_id for one in recordings]
    return {
        variant: asdict(word_error_rate(texts, [heard[f"{name}/{variant}"] for name in ids], seed=seed))
        for variant in VARIANTS
    }


def _variants(captioner: Captioner, waveform: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    yield "original", waveform
    units, durations = remove_repeats(captioner.units(waveform))
    yield "true_durations", captioner.speak(units, durations).waveform
    yield "predicted_durations", captioner.speak(units).waveform
