"""Recordings for the lexicon: sentences spoken by the synthetic voice -> their phones and speech units, in shards."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from im2sp.arrays import FloatArray, IntArray
from im2sp.speech.audio import HOP, SAMPLE_RATE
from im2sp.train.data.rows import read_rows, write_rows
from im2sp.train.data.speech_shards import as_floats
from im2sp.train.data.synthesis import PiperSynthesizer

log = logging.getLogger(__name__)

SHARD_SIZE = 250  # sentences

_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("phones", pa.list_(pa.string())),
        ("phone_samples", pa.list_(pa.int32())),
        ("units", pa.list_(pa.uint16())),
        ("waveform", pa.list_(pa.int16())),
    ]
)


@dataclass(frozen=True)
class Recording:
    """A recorded sentence."""

    text: str
    phones: Sequence[str]
    phone_samples: np.ndarray  # int32 [phones], 16 kHz samples
    units: np.ndarray  # uint16 [F], 50 Hz, repeats kept
    waveform: np.ndarray  # int16 [F * HOP], 16 kHz


def record(texts: Sequence[str], voice: PiperSynthesizer, encode: Callable[[FloatArray], IntArray], out: Path) -> None:
    """Speak texts and write `out/NNNN.parquet` for each SHARD_SIZE of them that is not there yet.

    Args:
        encode: waveform float32 [samples], 16 kHz -> units [F], 50 Hz.
    """
    for first in range(0, len(texts), SHARD_SIZE):
        path = out / f"{first // SHARD_SIZE:04d}.parquet"
        if path.is_file():
            continue
        began, seconds, rows = time.monotonic(), 0.0, []
        for text in texts[first : first + SHARD_SIZE]:
            spoken = voice.synthesize(text)
            waveform = spoken.waveform[: len(spoken.waveform) // HOP * HOP]
            seconds += len(waveform) / SAMPLE_RATE
            units = encode(as_floats(waveform))
            rows.append(Recording(text, spoken.phones, spoken.phone_samples, units, waveform))
        write_rows(path, rows, _SCHEMA)
        log.info("%s: %.0f s of speech, %.1f times real time", path, seconds, seconds / (time.monotonic() - began))


def read_recordings(folder: Path) -> Iterator[Recording]:
    """Recordings of all shards in the order of their names."""
    shards = sorted(folder.glob("*.parquet"))
    return chain.from_iterable(read_rows(path, Recording, _SCHEMA) for path in shards)
