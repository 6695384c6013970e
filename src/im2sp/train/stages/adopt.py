"""Stage `adopt`: a finished bundle -> its translator, its subwords and what it says about photos, to go on from.

A run that adopts a bundle trains no voice. It learns from the sentences of the bundle, beam search and all
(sequence-level distillation), so that translators that see photos in other ways have one teacher, whose units its own
vocoder speaks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError
from im2sp.speech.audio import HOP, SAMPLE_RATE
from im2sp.train.convert.finished import read_translator
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.data.unit_table import UnitRow, write_unit_table
from im2sp.train.models.saving import CONFIG

log = logging.getLogger(__name__)

SHARD_SIZE = 250  # photos between two saves


def adopt(bundle: Bundle, translator: Path, subwords: Path) -> None:
    """Write translator and subwords of a bundle, unless they are there.

    Raises:
        Im2SpError: the translator cannot be read back from the graphs of this bundle, or learned other units than its
            voice has.
    """
    vocabulary = bundle.config.vocabulary
    if vocabulary.output_units is not None:
        raise Im2SpError(
            f"the translator of {bundle.config.name} {bundle.config.version} learned other speech units than its voice "
            "has: a run can go on from its voice, by a recipe with [pronunciations], but not from its translator"
        )
    if not subwords.is_file():
        UnitSubwords.from_table(vocabulary.subwords, vocabulary.units).save(subwords)
    if not (translator / CONFIG).is_file():
        read_translator(bundle).save(translator)


def retell(captioner: Captioner, photos: dict[str, Path], split: str, out: Path) -> None:
    """Write what a bundle says about photos as unit tables `out/<split>-<number>.parquet`; goes on where it stopped.

    The bundle's own decoding, one sentence a photo. Durations are those that it predicts.

    Args:
        photos: by image id.

    Raises:
        ImageError: a photo cannot be read.
    """
    bundle = captioner.bundle
    voice = str(bundle.config.training.get("voice", bundle.config.name))
    made_by: dict[str, str | int] = {
        "speech_encoder": bundle.checksums.get("speech_encoder.onnx", "none"),
        "said_by": bundle.checksums["decoder.onnx"],
        "units": bundle.config.vocabulary.units,
    }

    def rows(some: list[tuple[str, Path]]) -> Iterator[UnitRow]:
        for image_id, path in some:
            translation = captioner.decode(captioner.encode(path))
            units, durations = captioner.vocoder.plan(captioner.vocabulary.decode(translation.tokens))
            frames = np.repeat(units, durations).astype(np.uint16)
            yield UnitRow(image_id, f"{image_id}#said", frames, split, voice, len(frames) * HOP / SAMPLE_RATE, "")

    listed = list(photos.items())
    for number in range(-(-len(listed) // SHARD_SIZE)):
        some = listed[number * SHARD_SIZE : (number + 1) * SHARD_SIZE]
        target = out / f"{split}-{number:04d}.parquet"
        if not target.is_file():
            write_unit_table(target, rows(some), made_by)
            log.info("%s: %d of %d photos", target, number * SHARD_SIZE + len(some), len(listed))
