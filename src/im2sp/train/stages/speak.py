"""Stage `speak`: captions -> spoken captions, in a fixed random order so that any prefix is a fair sample."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from im2sp.files import atomic_write
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.data.flickr8k import Caption, clean_text, read_captions
from im2sp.train.data.speech_shards import SpokenCaption, as_floats, read_shards, write_shard
from im2sp.train.data.voice import PiperSpeaker, VoiceConfig
from im2sp.train.evaluate.recognisers import WhisperRecogniser
from im2sp.train.evaluate.words import word_error_rate

log = logging.getLogger(__name__)

SHARD_SIZE = 250  # captions
REMEMBERED = 4000  # recordings kept for a sentence that comes again, as those of a text captioner do; 300 MB
CLAIM_SECONDS = 600  # a shard claimed longer ago than this belongs to a process that died
LOST_RATE = 50.0  # word error rate (%) above which a clip counts as one that the recogniser cannot follow


class OfSplit(Protocol):
    """Anything that belongs to a split."""

    @property
    def split(self) -> str: ...  # "train" or "dev"


C = TypeVar("C", bound=OfSplit)


def speaking_order(captions: list[C], seed: int, shard_size: int) -> list[tuple[str, list[C]]]:
    """Named shards of captions: one dev shard first, then train, then the rest of dev; shuffled by the seed."""
    rng = random.Random(seed)
    parts = {}
    for split in ("train", "dev"):
        part = [caption for caption in captions if caption.split == split]
        rng.shuffle(part)
        parts[split] = [part[i : i + shard_size] for i in range(0, len(part), shard_size)]
    named = {split: [(f"{split}-{i:04d}", shard) for i, shard in enumerate(shards)] for split, shards in parts.items()}
    return named["dev"][:1] + named["train"] + named["dev"][1:]


def speak(data: Path, out: Path, voice: VoiceConfig, seed: int = 0, shards: int | None = None) -> None:
    """Speak every caption whose shard is not there yet. Safe to stop and run again, and to run twice at once.

    Args:
        shards: so many of them, of dev first; all where it is None.
    """
    speak_shards(speaking_order(read_captions(data), seed, SHARD_SIZE)[:shards], out, voice)


def speak_shards(shards: list[tuple[str, list[Caption]]], out: Path, voice: VoiceConfig, threads: int = 1) -> None:
    """Speak the named shards that are not there yet. Safe to stop and run again, and to run twice at once."""
    say: Callable[[str], tuple[np.ndarray, list[str], np.ndarray]] | None = None
    for name, shard in shards:
        path = out / f"{name}.parquet"
        claim = out / f".{name}.claim"
        if path.exists() or (claim.exists() and time.time() - claim.stat().st_mtime < CLAIM_SECONDS):
            continue
        out.mkdir(parents=True, exist_ok=True)
        claim.touch()
        say = say or lru_cache(REMEMBERED)(PiperSpeaker(voice, threads).speak)
        started, seconds, spoken = time.monotonic(), 0.0, []
        for caption in shard:
            wave, phones, counts = say(clean_text(caption.text))
            seconds += len(wave) / SAMPLE_RATE
            spoken.append(
                SpokenCaption(
                    caption.caption_id,
                    caption.image_id,
                    caption.split,
                    voice.speaker,
                    caption.text,
                    wave,
                    phones,
                    counts,
                )
            )
        write_shard(path, spoken)
        claim.unlink(missing_ok=True)
        took = time.monotonic() - started
        log.info(
            "%s: %d captions, %.0f s of speech, %.1fx faster than speech", name, len(shard), seconds, seconds / took
        )


def check_speech(speech: Path, out: Path, recogniser: str, clips: int) -> None:
    """Send dev clips through the recogniser; `out` gets the word error rate and the clips it cannot follow."""
    if out.is_file():
        return
    heard = WhisperRecogniser(recogniser, threads=1)
    captions = list(read_shards(speech, "dev", clips))
    waves = ((c.caption_id, as_floats(c.waveform)) for c in captions)
    found = heard.transcribe_all(waves, out.with_suffix(".jsonl"))
    texts = [found[caption.caption_id] for caption in captions]
    rate = word_error_rate([caption.text for caption in captions], texts)
    lost = []
    for caption, text in zip(captions, texts, strict=True):
        own = word_error_rate([caption.text], [text]).rate
        if own > LOST_RATE:
            lost.append({"caption_id": caption.caption_id, "text": caption.text, "heard": text, "word_error_rate": own})
    with atomic_write(out) as temporary:
        temporary.write_text(
            json.dumps({"clips": len(captions), "word_error_rate": asdict(rate), "lost": lost}, indent=1)
        )
    log.info("the recogniser follows %d of %d clips; %s", len(captions) - len(lost), len(captions), rate)
