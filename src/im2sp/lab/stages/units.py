"""Stage `units`: spoken captions -> unit tables, one for each speech shard, and unit subwords."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from im2sp.files import sha256_of
from im2sp.lab.data.speech_shards import as_floats, read_shard
from im2sp.lab.data.unit_subwords import UnitSubwords
from im2sp.lab.data.unit_table import UnitRow, iterate_unit_tables, write_unit_table
from im2sp.lab.models.speech_encoder import CLUSTERS, SpeechEncoder, whole_frames
from im2sp.lab.precision import products
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.speech.units import remove_repeats

log = logging.getLogger(__name__)


def extract_units(speech: Path, encoder_folder: Path, out: Path, share: tuple[int, int] = (0, 1)) -> None:
    """Write `out/<shard>.parquet` for every speech shard that has none yet.

    In bfloat16 where the processor has it, twice as fast: 3 frames in 1,000 then get another unit.

    Args:
        share: (i, n): do every n-th shard from i, so that n processes can divide the work.
    """
    encoder = SpeechEncoder.load(encoder_folder)
    description: dict[str, str | int] = {
        "speech_encoder": sha256_of(encoder_folder / "model.safetensors"),
        "clusters": sha256_of(encoder_folder / CLUSTERS),
        "units": encoder.units,
    }
    for path in sorted(speech.glob("*.parquet"))[share[0] :: share[1]]:
        target = out / path.name
        if target.exists():
            continue
        started, seconds, rows = time.monotonic(), 0.0, []
        for clip in read_shard(path):
            waveform = as_floats(whole_frames(clip.waveform))
            with torch.inference_mode():
                with products("cpu"):
                    features = encoder.features(torch.from_numpy(waveform)[None])
                units = encoder.nearest(features.float())[0].numpy().astype(np.uint16)
            duration = len(clip.waveform) / SAMPLE_RATE
            seconds += duration
            rows.append(UnitRow(clip.image_id, clip.caption_id, units, clip.split, clip.speaker, duration, clip.text))
        write_unit_table(target, rows, description)
        log.info("%s: %.0fx faster than speech", path.name, seconds / (time.monotonic() - started))


def learn_subwords(units: Path, out: Path, count: int, size: int) -> UnitSubwords:
    """Byte-pair subwords over the training part of the unit tables; kept in `out`.

    Args:
        count: speech units (clusters) there are.
        size: subwords wanted, the single units among them.
    """
    if out.is_file():
        return UnitSubwords.load(out, count)

    def sentences() -> Iterator[np.ndarray]:
        return (remove_repeats(row.speech_units)[0] for row in iterate_unit_tables(units, "train"))

    subwords = UnitSubwords.train(sentences(), count, size)
    subwords.save(out)
    some = list(islice(sentences(), 2000))
    before = np.mean([len(sentence) for sentence in some])
    after = np.mean([len(subwords.encode(sentence)) - 2 for sentence in some])
    log.info("units a caption: %.1f without repeats, %.1f as subwords of %d", before, after, size)
    return subwords
