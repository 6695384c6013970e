"""Stage `vocoder`: speech units and recordings -> a vocoder with its durations, ours or the published unit HiFi-GAN."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

from im2sp.files import replace_whole
from im2sp.lab.data.clips import StoredClips, store_clips
from im2sp.lab.models.unit_hifigan import UnitHifiganConfig
from im2sp.lab.models.unit_vocoder import VocoderConfig
from im2sp.lab.training.hifigan import HifiganTraining, train_hifigan
from im2sp.lab.training.processes import Processes
from im2sp.lab.training.vocoder import VocoderTraining, train_vocoder

log = logging.getLogger(__name__)

SPEAKERS = "speakers.json"  # names of the speakers, in the order of their embeddings


def _clips(speech: Path, units: Path, out: Path) -> StoredClips:
    with Processes().main_first():
        return store_clips(speech, units, "train", out / "clips")


def train_own(speech: Path, units: Path, sizes: VocoderConfig, options: VocoderTraining, out: Path) -> None:
    """Train our vocoder on the train part. All speakers become one voice."""
    train_vocoder(_clips(speech, units, out), sizes, options, out)


def train_published(speech: Path, units: Path, sizes: UnitHifiganConfig, options: HifiganTraining, out: Path) -> None:
    """Train a unit HiFi-GAN on the train part, with a voice for each speaker where there are several.

    The names of the speakers are left in `out/speakers.json`.
    """
    clips = _clips(speech, units, out)
    if len(clips.speakers) > 1:
        sizes = replace(sizes, speakers=len(clips.speakers))
        if Processes().main:
            with replace_whole(out / SPEAKERS) as temporary:
                temporary.write_text(json.dumps(clips.speakers, indent=1), encoding="utf-8")
        log.info("%d speakers, by name in %s", len(clips.speakers), out / SPEAKERS)
    train_hifigan(clips, sizes, options, out)
