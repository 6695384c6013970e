"""Speech units: k-means on features of speech, the choice of a HuBERT layer, and recordings -> unit tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from transformers import HubertModel

from im2sp.files import sha256_of
from im2sp.speech.audio import HOP, SAMPLE_RATE, UNIT_RATE
from im2sp.train.data.speech_shards import SpokenCaption, as_floats, read_shard, read_shards
from im2sp.train.data.unit_table import UnitRow, write_unit_table
from im2sp.train.evaluate.unit_quality import frame_phones, phone_information
from im2sp.train.models.mfcc import MFCC
from im2sp.train.models.speech_encoder import CLUSTERS, Clusters, SpeechEncoder, edge_padding, whole_frames
from im2sp.train.precision import products

log = logging.getLogger(__name__)

Features = Callable[[np.ndarray], np.ndarray]  # waveform float32 [n * HOP], 16 kHz -> float32 [n, width]


def mfcc_features(waveform: np.ndarray) -> np.ndarray:
    """Waveform float32 [n * HOP] -> MFCCs float32 [n, 39]."""
    with torch.inference_mode():
        features: np.ndarray = _mfcc()(torch.from_numpy(waveform)[None])[0].numpy()
    return features


@lru_cache(maxsize=1)
def _mfcc() -> MFCC:
    return MFCC()


def layer_features(hubert: HubertModel, layer: int, smoothing: int) -> Features:
    """Features of one layer and MFCCs beside them, as a function of the waveform; in bfloat16 where that is fast."""
    encoder = SpeechEncoder(hubert, layer, edge_padding(hubert.config), smoothing, mfcc=True)

    def features(waveform: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), products("cpu"):
            return encoder.features(torch.from_numpy(waveform)[None])[0].float().numpy()

    return features


def sample_features(clips: Sequence[np.ndarray], features: Features, minutes: float, seed: int) -> np.ndarray:
    """Features [frames, width] of clips int16 [samples] in random order, up to some minutes of speech."""
    rows, frames = [], 0
    for index in np.random.default_rng(seed).permutation(len(clips)):
        rows.append(features(as_floats(clips[index])))
        frames += len(rows[-1])
        if frames > minutes * 60 * UNIT_RATE:
            break
    return np.concatenate(rows)


def fit_clusters(
    features: np.ndarray, count: int, hubert_width: int = 0, hubert_variance: float = 1.0, seed: int = 0
) -> Clusters:
    """Fit k-means.

    Args:
        features: [frames, width].
        hubert_width: how many of the features, the first ones, are HuBERT's.
        hubert_variance: what the summed variance of those becomes, as a multiple of that of the others.
    """
    scale = np.ones(features.shape[1])
    if 0 < hubert_width < features.shape[1]:
        variance = features.var(0, dtype=np.float64)
        ours, others = variance[:hubert_width].sum(), variance[hubert_width:].sum()
        scale[:hubert_width] = np.sqrt(hubert_variance * others / max(ours, 1e-12))
    kmeans = MiniBatchKMeans(
        min(count, len(features)), batch_size=4096, n_init=1, max_iter=40, max_no_improvement=50, random_state=seed
    )
    kmeans.fit((features * scale).astype(np.float32))
    return Clusters.around(kmeans.cluster_centers_, scale)


def probe_quality(probe: Sequence[SpokenCaption], features: Features, clusters: Clusters) -> float:
    """How much the units of clips tell about their phones, from 0 to 1."""
    units = [clusters.assign(features(as_floats(whole_frames(clip.waveform)))) for clip in probe]
    phones = [
        frame_phones(clip.phones, clip.phone_samples, len(found)) for clip, found in zip(probe, units, strict=True)
    ]
    return phone_information(zip(units, phones, strict=True))


def training_clips(recordings: Path, hours: float) -> list[np.ndarray]:
    """Waveforms int16 [n * HOP] of the train split, up to some hours."""
    clips, samples = [], 0
    for clip in read_shards(recordings, "train"):
        clips.append(whole_frames(np.array(clip.waveform)))
        samples += len(clip.waveform)
        if samples > hours * 3600 * SAMPLE_RATE:
            break
    return clips


def quantize(recordings: Path, speech_encoder: Path, out: Path) -> None:
    """Write a unit table for every shard of recordings that has none yet.

    In bfloat16 where the processor is fast at it, twice as fast; 3 frames in 1,000 then get another unit.

    Args:
        speech_encoder: folder of a trained or converted one.
    """
    encoder = SpeechEncoder.load(speech_encoder)
    files = {"speech_encoder": "model.safetensors", "clusters": CLUSTERS}
    description: dict[str, str | int] = {name: sha256_of(speech_encoder / file) for name, file in files.items()}
    for path in sorted(recordings.glob("*.parquet")):
        target = out / path.name
        if target.exists():
            continue
        started, seconds, rows = time.monotonic(), 0.0, []
        for clip in read_shard(path):
            waveform = whole_frames(clip.waveform)
            if len(waveform) < HOP:
                continue
            with torch.inference_mode():
                with products("cpu"):
                    features = encoder.features(torch.from_numpy(as_floats(waveform))[None])
                units = encoder.nearest(features.float())[0].numpy().astype(np.uint16)
            duration = len(clip.waveform) / SAMPLE_RATE
            seconds += duration
            rows.append(UnitRow(clip.image_id, clip.caption_id, units, clip.split, clip.speaker, duration, clip.text))
        write_unit_table(target, rows, description | {"units": encoder.units})
        log.info("%s: %.0f times real time", path.name, seconds / (time.monotonic() - started))
