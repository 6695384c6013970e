"""Stage `speak`: captions -> spoken captions (Parquet shards), in a fixed random order so that any prefix is a fair sample."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path

from im2sp.lab.data.flickr8k import Caption, clean_text, read_captions
from im2sp.lab.data.speech_shards import SpokenCaption, write_shard
from im2sp.lab.data.voice import PiperSpeaker, VoiceConfig

log = logging.getLogger(__name__)


def speaking_order(captions: list[Caption], seed: int, shard_size: int) -> list[tuple[str, list[Caption]]]:
    """Named shards of captions: one dev shard first, then train, then the rest of dev; shuffled by the seed."""
    rng = random.Random(seed)
    parts = {}
    for split in ("train", "dev"):
        part = [caption for caption in captions if caption.split == split]
        rng.shuffle(part)
        parts[split] = [part[i : i + shard_size] for i in range(0, len(part), shard_size)]
    named = {split: [(f"{split}-{i:04d}", shard) for i, shard in enumerate(shards)] for split, shards in parts.items()}
    return named["dev"][:1] + named["train"] + named["dev"][1:]


def speak(data: Path, out: Path, voice: VoiceConfig, seed: int = 0, shard_size: int = 250, threads: int = 1) -> None:
    """Speak every caption whose shard is not there yet. Safe to stop and run again; two processes may share the work."""
    speaker: PiperSpeaker | None = None
    for name, shard in speaking_order(read_captions(data), seed, shard_size):
        path = out / f"{name}.parquet"
        claim = out / f".{name}.claim"
        if path.exists() or (claim.exists() and time.time() - claim.stat().st_mtime < 600):
            continue
        out.mkdir(parents=True, exist_ok=True)
        claim.touch()
        speaker = speaker or PiperSpeaker(voice, threads)
        started, seconds, spoken = time.monotonic(), 0.0, []
        for caption in shard:
            wave, phones, counts = speaker.speak(clean_text(caption.text))
            seconds += len(wave) / 16_000
            spoken.append(
                SpokenCaption(
                    caption.caption_id, caption.image_id, caption.split, voice.speaker, caption.text, wave, phones, counts
                )
            )
        write_shard(path, spoken)
        claim.unlink(missing_ok=True)
        took = time.monotonic() - started
        log.info("%s: %d captions, %.0f s of speech, %.1fx faster than speech", name, len(shard), seconds, seconds / took)
