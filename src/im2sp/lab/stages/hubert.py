"""Stage `hubert`: spoken captions -> a small HuBERT of our own and k-means units on its best layer.

Later iterations go on from the weights of the one before, where HuBERT's authors start anew: with an hour of two cores
in place of days of many GPUs the head start is worth more than the independence.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from sklearn.cluster import MiniBatchKMeans
from transformers import HubertModel

from im2sp.errors import Im2SpError
from im2sp.files import replace_whole
from im2sp.lab.data.mfcc import mfcc
from im2sp.lab.data.speech_shards import SpokenCaption, as_floats, read_shards
from im2sp.lab.evaluation.unit_quality import frame_phones, unit_quality
from im2sp.lab.models.speech_encoder import SpeechEncoder, edge_padding, small_hubert_config, whole_frames
from im2sp.lab.training.hubert import HubertTraining, train_hubert

log = logging.getLogger(__name__)

Features = Callable[[np.ndarray], np.ndarray]  # waveform float32 [n * HOP] -> [n, width]


@dataclass(frozen=True)
class HubertStage:
    """Options of the stage."""

    hours: float = 10.0  # speech to learn from
    layers: int = 6
    width: int = 256
    first_clusters: int = 100  # of MFCCs, the targets of the first iteration
    clusters: int = 200  # of features, the targets of later iterations and the speech units
    iterations: tuple[int, ...] = (900, 1500)  # training steps of each iteration
    batch_seconds: float = 32.0
    learning_rate: float = 1e-3
    smoothing: int = 5  # frames averaged before clustering (see SpeechEncoder); 1 for none
    kmeans_minutes: float = 15.0  # speech that k-means looks at
    probe_clips: int = 200  # held-out (dev) clips on which layers are compared
    seed: int = 0


def train_speech_encoder(speech: Path, out: Path, options: HubertStage) -> SpeechEncoder:
    """Run all iterations that are not finished; leave `out/speech_encoder` and `out/layers.json` (the comparison)."""
    final = out / "speech_encoder"
    if (final / "speech_encoder.json").is_file():
        return SpeechEncoder.load(final)
    clips = _training_clips(speech, options.hours)
    probe = list(read_shards(speech, "dev", options.probe_clips))
    if not clips or not probe:
        raise Im2SpError(f"{speech} holds no spoken captions of both splits yet: run the stage `speak` first")
    centres = _clusters("mfcc", clips, mfcc, options.first_clusters, out, options)
    report = {"mfcc": {"kmeans": asdict(_probe(probe, mfcc, centres))}}
    log.info("mfcc targets: %s", report["mfcc"]["kmeans"])
    targets = [assign(mfcc(as_floats(clip)), centres) for clip in clips]
    best, hubert = (0, centres), None
    for number, steps in enumerate(options.iterations, 1):
        name = f"iteration-{number}"
        training = HubertTraining(
            steps=steps,
            batch_seconds=options.batch_seconds,
            learning_rate=options.learning_rate,
            seed=options.seed + number,
        )
        config = small_hubert_config(options.layers, options.width)
        hubert = train_hubert(clips, targets, config, training, out / name, len(centres), hubert)
        last = number == len(options.iterations)
        scores, best = _choose_layer(name, hubert, clips, probe, out, options, measure_all=last)
        report[name] = scores
        if not last:
            centres = best[1]
            features = layer_features(hubert, best[0], options.smoothing)
            targets = [assign(features(as_floats(clip)), centres) for clip in clips]
    assert hubert is not None
    encoder = SpeechEncoder(hubert, best[0], edge_padding(hubert.config), options.smoothing, best[1])
    encoder.save(final)
    with replace_whole(out / "layers.json") as temporary:
        temporary.write_text(json.dumps({"best_layer": best[0], "scores": report}, indent=1))
    return encoder


def layer_features(hubert: HubertModel, layer: int, smoothing: int = 1) -> Features:
    """Features of one layer as a function of the waveform, in bfloat16."""
    encoder = SpeechEncoder(hubert, layer, edge_padding(hubert.config), smoothing)

    def features(waveform: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return encoder.features(torch.from_numpy(waveform)[None])[0].float().numpy()

    return features


def assign(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Nearest centre of each row: int16 [n]."""
    return ((centres**2).sum(1) - 2 * features @ centres.T).argmin(1).astype(np.int16)


def _choose_layer(
    name: str,
    hubert: HubertModel,
    clips: list[np.ndarray],
    probe: list[SpokenCaption],
    out: Path,
    options: HubertStage,
    measure_all: bool,
) -> tuple[dict[str, dict[str, float]], tuple[int, np.ndarray]]:
    """k-means on each layer of the upper half (all layers in the last iteration); the best by phone information."""
    layers = range(1 if measure_all else options.layers // 2 + 1, options.layers + 1)
    scores: dict[str, dict[str, float]] = {}
    best: tuple[int, np.ndarray] | None = None
    for layer in layers:
        features = layer_features(hubert, layer, options.smoothing)
        centres = _clusters(f"{name}-layer-{layer}", clips, features, options.clusters, out, options)
        quality = _probe(probe, features, centres)
        scores[str(layer)] = asdict(quality)
        log.info("%s layer %d: %s", name, layer, quality)
        if best is None or quality.phone_information > max(
            score["phone_information"] for key, score in scores.items() if key != str(layer)
        ):
            best = (layer, centres)
    assert best is not None
    return scores, best


def _probe(probe: list[SpokenCaption], features: Features, centres: np.ndarray):  # type: ignore[no-untyped-def]
    pairs = []
    for clip in probe:
        units = assign(features(as_floats(whole_frames(clip.waveform))), centres)
        pairs.append((units, frame_phones(clip.phones, clip.phone_samples, len(units))))
    return unit_quality(pairs)


def _clusters(
    name: str, clips: list[np.ndarray], features: Features, clusters: int, out: Path, options: HubertStage
) -> np.ndarray:
    path = out / "centres" / f"{name}.safetensors"
    if path.is_file():
        return load_file(path)["centres"]
    rng = np.random.default_rng(options.seed)
    rows, frames = [], 0
    for index in rng.permutation(len(clips)):
        rows.append(features(as_floats(clips[index])))
        frames += len(rows[-1])
        if frames > options.kmeans_minutes * 60 * 50:
            break
    data = np.concatenate(rows)
    kmeans = MiniBatchKMeans(
        min(clusters, len(data)),
        batch_size=4096,
        n_init=1,
        max_iter=40,
        max_no_improvement=50,
        random_state=options.seed,
    )
    kmeans.fit(data)
    centres = kmeans.cluster_centers_.astype(np.float32)
    with replace_whole(path) as temporary:
        save_file({"centres": centres}, temporary)
    return centres


def _training_clips(speech: Path, hours: float) -> list[np.ndarray]:
    clips, samples = [], 0
    for clip in read_shards(speech, "train"):
        clips.append(whole_frames(np.array(clip.waveform)))
        samples += len(clip.waveform)
        if samples > hours * 3600 * 16_000:
            break
    return clips
