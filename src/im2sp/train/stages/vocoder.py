"""Stage `vocoder`: speech units and recordings -> clips to learn from; those of several speakers -> their voices."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from im2sp.files import replace_whole
from im2sp.train.data.clips import StoredClips, store_clips
from im2sp.train.models.saving import CONFIG
from im2sp.train.models.unit_hifigan import UnitHifiganConfig
from im2sp.train.models.unit_vocoder import load_vocoder, save_vocoder
from im2sp.train.training.hifigan import HifiganTraining, train_hifigan
from im2sp.train.training.processes import Processes
from im2sp.train.training.vocoder import VocoderTraining, train_durations

log = logging.getLogger(__name__)

SPEAKERS = "speakers.json"  # names of the speakers, in the order of their embeddings


def clips_of(speech: Path, units: Path, out: Path, parts: tuple[str, ...]) -> StoredClips:
    """Shards of the train part, in `out/clips`: the first process writes it, the others find it there.

    Args:
        parts: what the names of the shards begin with.
    """
    with Processes().main_first():
        return store_clips(speech, units, "train", out / "clips", parts)


def learn_durations(
    voice: Path, heard: Iterable[np.ndarray], regular: Iterable[np.ndarray], options: VocoderTraining, out: Path
) -> None:
    """Let the duration predictor of a voice learn on from regular sentences, too; the voice with it is left in `out`.

    A word in regular units is always as long as in the recording that it was taken from, which can be learned where the
    lengths of what people or a voice say anew cannot.

    Args:
        heard, regular: unit of each frame [F] of sentences.
    """
    if (out / CONFIG).is_file():
        return
    vocoder, durations = load_vocoder(voice)
    out.mkdir(parents=True, exist_ok=True)
    save_vocoder(vocoder, train_durations([*heard, *regular], durations, options, out), out)


def train_published(clips: StoredClips, sizes: UnitHifiganConfig, options: HifiganTraining, out: Path) -> None:
    """Train a unit HiFi-GAN, with a voice for each speaker where there are several.

    Their names are left in `out/speakers.json`.
    """
    if len(clips.speakers) > 1:
        sizes = replace(sizes, speakers=len(clips.speakers))
        if Processes().main:
            with replace_whole(out / SPEAKERS) as temporary:
                temporary.write_text(json.dumps(clips.speakers, indent=1), encoding="utf-8")
        log.info("%d speakers, by name in %s", len(clips.speakers), out / SPEAKERS)
    train_hifigan(clips, sizes, options, out)
