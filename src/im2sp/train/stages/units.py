"""Stage `units`: spoken captions -> unit tables, one for each speech shard, and unit subwords."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from im2sp.arrays import FloatArray
from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.files import sha256_of
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.speech.units import remove_repeats
from im2sp.train.data.speech_shards import as_floats, read_shard
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.data.unit_table import UnitRow, iterate_unit_tables, write_unit_table
from im2sp.train.models.speech_encoder import CLUSTERS, SpeechEncoder, whole_frames
from im2sp.train.precision import products

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hearing:
    """What hears units.

    Args:
        made_by: of the unit tables that it makes.
        units: a waveform float32 [samples] of 16 kHz -> its units [F], 50 a second.
    """

    made_by: dict[str, str | int]
    units: Callable[[FloatArray], np.ndarray]


def trained_hearing(folder: Path) -> Hearing:
    """A speech encoder and its k-means, as the stage `hubert` leaves them.

    In bfloat16 where the processor has it, twice as fast: 3 frames in 1,000 then get another unit.
    """
    encoder = SpeechEncoder.load(folder)

    def units(waveform: FloatArray) -> np.ndarray:
        with torch.inference_mode():
            with products("cpu"):
                features = encoder.features(torch.from_numpy(waveform)[None])
            return encoder.nearest(features.float())[0].numpy()

    made_by: dict[str, str | int] = {
        "speech_encoder": sha256_of(folder / "model.safetensors"),
        "clusters": sha256_of(folder / CLUSTERS),
        "units": encoder.units,
    }
    return Hearing(made_by, units)


def bundled_hearing(bundle: Bundle) -> Hearing:
    """The speech encoder of a finished bundle, through the runtime.

    Raises:
        BundleError: it has none (when it hears).
    """
    made_by: dict[str, str | int] = {
        "speech_encoder": bundle.checksums.get("speech_encoder.onnx", "none"),
        "units": bundle.config.vocabulary.units,
    }
    return Hearing(made_by, Captioner(bundle, threads=1).units)


def extract_units(speech: Path, hearing: Hearing, out: Path, share: tuple[int, int] = (0, 1)) -> None:
    """Write `out/<shard>.parquet` for every speech shard that has none yet.

    Args:
        share: (i, n): do every n-th shard from i, so that n processes can divide the work.
    """
    for path in sorted(speech.glob("*.parquet"))[share[0] :: share[1]]:
        target = out / path.name
        if target.exists():
            continue
        started, seconds, rows = time.monotonic(), 0.0, []
        for clip in read_shard(path):
            units = hearing.units(as_floats(whole_frames(clip.waveform))).astype(np.uint16)
            duration = len(clip.waveform) / SAMPLE_RATE
            seconds += duration
            rows.append(UnitRow(clip.image_id, clip.caption_id, units, clip.split, clip.speaker, duration, clip.text))
        write_unit_table(target, rows, hearing.made_by)
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
