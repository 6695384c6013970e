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
from im2sp.speech.audio import HOP
from im2sp.train.data.mfcc import mfcc
from im2sp.train.data.speech_shards import SpokenCaption, as_floats, read_shards
from im2sp.train.evaluate.unit_quality import UnitQuality, frame_phones, unit_quality
from im2sp.train.models.speech_encoder import Clusters, SpeechEncoder, edge_padding, small_hubert_config, whole_frames
from im2sp.train.precision import products
from im2sp.train.training.hubert import HubertTraining, train_hubert
from im2sp.train.training.processes import Processes, peers_answer

log = logging.getLogger(__name__)

Features = Callable[[np.ndarray], np.ndarray]  # waveform float32 [n * HOP] -> [n, width]


@dataclass(frozen=True)
class HubertStage:
    """Options of the stage."""

    hours: float = 10.0  # speech to learn from
    layers: int = 6
    width: int = 256
    first_clusters: int = 100  # of MFCCs, the targets of the first iteration
    target_clusters: int = 200  # of features, the targets of later iterations
    clusters: int = 200  # of features: the speech units
    context_share: float = 0.5  # spread of HuBERT features beside the cepstra they are clustered with
    iterations: tuple[int, ...] = (900, 1500)  # training steps of each iteration
    batch_seconds: float = 32.0
    learning_rate: float = 1e-3
    smoothing: int = 5  # frames averaged before clustering (see SpeechEncoder); 1 for none
    kmeans_minutes: float = 15.0  # speech that k-means looks at
    probe_clips: int = 200  # held-out (dev) clips on which layers are compared
    accumulate: int = 1  # parts that a training process computes its share of a step in
    bf16: bool = True  # products of matrices in bfloat16, in training
    layer: int = 0  # to take units from; 0: the best by phone information, without phones the middle of the upper half
    seed: int = 0


@peers_answer()
def train_speech_encoder(speech: Path, out: Path, options: HubertStage) -> SpeechEncoder:
    """Run all iterations that are not finished; leave `out/speech_encoder` and `out/layers.json` (the comparison)."""
    processes, final = Processes(), out / "speech_encoder"
    finished = (final / "speech_encoder.json").is_file()
    processes.same(finished, f"states of {out}")
    if finished:
        return SpeechEncoder.load(final)
    clips = _training_clips(speech, options.hours)
    probe = list(read_shards(speech, "dev", options.probe_clips))
    if not clips or not probe:
        raise Im2SpError(f"{speech} holds no spoken captions of both splits yet: run the stage `speak` first")
    if not 0 <= options.layer <= options.layers:
        raise Im2SpError(
            f"`layer` in the recipe's [hubert] is {options.layer}: name one of 1 to {options.layers}, or 0"
        )
    clusters = _clusters("mfcc", clips, mfcc, options.first_clusters, out, options)
    report = {"mfcc": {"kmeans": asdict(_probe(probe, mfcc, clusters))}}
    log.info("mfcc targets: %s", report["mfcc"]["kmeans"])
    features: Features = mfcc
    best, hubert = (0, clusters), None
    for number, steps in enumerate(options.iterations, 1):
        name = f"iteration-{number}"
        training = HubertTraining(
            steps=steps,
            batch_seconds=options.batch_seconds,
            learning_rate=options.learning_rate,
            accumulate=options.accumulate,
            bf16=options.bf16,
            seed=options.seed + number,
        )
        if (out / name / "model.safetensors").is_file():
            hubert = HubertModel.from_pretrained(out / name)
        else:
            config = small_hubert_config(options.layers, options.width)
            with processes.main_first():
                targets = _targets(out / name / "targets.safetensors", clips, features, clusters)
            hubert = train_hubert(clips, targets, config, training, out / name, len(clusters), hubert)
        if (out / f"iteration-{number + 1}" / "model.safetensors").is_file():
            continue  # its targets, made from this one, are used up
        last = number == len(options.iterations)
        report[name], best = _choose_layer(name, hubert, clips, probe, out, options, last)
        clusters, features = best[1], layer_features(hubert, best[0], options.smoothing, True)
    assert hubert is not None
    encoder = SpeechEncoder(hubert, best[0], edge_padding(hubert.config), options.smoothing, True, best[1])
    if processes.main:
        encoder.save(final)
        with replace_whole(out / "layers.json") as temporary:
            temporary.write_text(json.dumps({"best_layer": best[0], "scores": report}, indent=1))
    processes.wait()
    return encoder


def _targets(path: Path, clips: list[np.ndarray], features: Features, clusters: Clusters) -> list[np.ndarray]:
    """Cluster of every frame of every clip, int16 [frames] each; kept in `path`, as a restart would wait for it."""
    edges = np.cumsum([len(clip) // HOP for clip in clips])
    if path.is_file() and len(flat := load_file(path)["targets"]) == edges[-1]:
        return np.split(flat, edges[:-1])
    targets = [clusters.assign(features(as_floats(clip))) for clip in clips]
    with replace_whole(path) as temporary:
        save_file({"targets": np.concatenate(targets)}, temporary)
    return targets


def layer_features(hubert: HubertModel, layer: int, smoothing: int = 1, cepstra: bool = False) -> Features:
    """Features of one layer, with cepstra beside them on wish, as a function of the waveform; in bfloat16."""
    encoder = SpeechEncoder(hubert, layer, edge_padding(hubert.config), smoothing, cepstra)

    def features(waveform: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), products("cpu"):
            return encoder.features(torch.from_numpy(waveform)[None])[0].float().numpy()

    return features


def _choose_layer(
    name: str,
    hubert: HubertModel,
    clips: list[np.ndarray],
    probe: list[SpokenCaption],
    out: Path,
    options: HubertStage,
    last: bool,
) -> tuple[dict[str, dict[str, float]], tuple[int, Clusters]]:
    """k-means on each layer of the upper half, and the best by phone information; or on the layer that was named."""
    scores: dict[int, UnitQuality] = {}
    found: dict[int, Clusters] = {}
    for layer in [options.layer] if options.layer else range(options.layers // 2 + 1, options.layers + 1):
        features = layer_features(hubert, layer, options.smoothing, True)
        count = options.clusters if last else options.target_clusters
        found[layer] = _clusters(
            f"{name}-layer-{layer}", clips, features, count, out, options, context=hubert.config.hidden_size
        )
        scores[layer] = _probe(probe, features, found[layer])
        log.info("%s layer %d: %s", name, layer, scores[layer])
    if any(clip.phones for clip in probe):
        best = max(scores, key=lambda layer: scores[layer].phone_information)
    else:
        best = sorted(scores)[len(scores) // 2]
    return {str(layer): asdict(score) for layer, score in scores.items()}, (best, found[best])


def _probe(probe: list[SpokenCaption], features: Features, clusters: Clusters) -> UnitQuality:
    pairs = []
    for clip in probe:
        units = clusters.assign(features(as_floats(whole_frames(clip.waveform))))
        pairs.append((units, frame_phones(clip.phones, clip.phone_samples, len(units))))
    return unit_quality(pairs)


def _clusters(
    name: str,
    clips: list[np.ndarray],
    features: Features,
    count: int,
    out: Path,
    options: HubertStage,
    context: int = 0,
) -> Clusters:
    path = out / "clusters" / f"{name}.safetensors"
    with Processes().main_first():
        return Clusters.load(path) if path.is_file() else _fit(path, clips, features, count, options, context)


def _fit(
    path: Path, clips: list[np.ndarray], features: Features, count: int, options: HubertStage, context: int
) -> Clusters:
    rng = np.random.default_rng(options.seed)
    rows, frames = [], 0
    for index in rng.permutation(len(clips)):
        rows.append(features(as_floats(clips[index])))
        frames += len(rows[-1])
        if frames > options.kmeans_minutes * 60 * 50:
            break
    clusters = fit_clusters(np.concatenate(rows), count, context, options.context_share, options.seed)
    clusters.save(path)
    return clusters


def fit_clusters(
    features: np.ndarray, count: int, context: int = 0, context_share: float = 1.0, seed: int = 0
) -> Clusters:
    """k-means on features [n, width].

    Args:
        context: how many of the features, the first ones, are HuBERT's.
        context_share: what the summed variance of those shall be, as a multiple of that of the rest.
    """
    scale = np.ones(features.shape[1])
    if 0 < context < features.shape[1]:
        variance = features.var(0, dtype=np.float64)
        scale[:context] = np.sqrt(context_share * variance[context:].sum() / max(variance[:context].sum(), 1e-12))
    kmeans = MiniBatchKMeans(
        min(count, len(features)),
        batch_size=4096,
        n_init=1,
        max_iter=40,
        max_no_improvement=50,
        random_state=seed,
    )
    kmeans.fit((features * scale).astype(np.float32))
    return Clusters.around(kmeans.cluster_centers_, scale)


def _training_clips(speech: Path, hours: float) -> list[np.ndarray]:
    clips, samples = [], 0
    for clip in read_shards(speech, "train"):
        clips.append(whole_frames(np.array(clip.waveform)))
        samples += len(clip.waveform)
        if samples > hours * 3600 * 16_000:
            break
    return clips
