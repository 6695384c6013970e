"""Speech units from one HuBERT, clustered in several ways, scored side by side on dev clips.

    python benchmarks/unit_variants.py [--runs runs/flickr8k] [--iteration 2] [--layer 5]

Prints phone information and purity (im2sp.lab.evaluation.unit_quality), units a second and subwords a caption,
for features averaged over 1, 3 and 5 frames, plain and whitened (64 principal components). Deterministic: seed 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from transformers import HubertModel

from im2sp.lab.data.speech_shards import SpokenCaption, as_floats, read_shards
from im2sp.lab.data.unit_subwords import UnitSubwords
from im2sp.lab.evaluation.unit_quality import frame_phones, unit_quality
from im2sp.lab.models.speech_encoder import whole_frames
from im2sp.lab.stages.hubert import assign, layer_features
from im2sp.speech.units import remove_repeats


def features_of(hubert: HubertModel, layer: int, smoothing: int, clips: list[SpokenCaption]) -> list[np.ndarray]:
    """Features float32 [frames, width] of every clip."""
    features = layer_features(hubert, layer, smoothing)
    return [features(as_floats(whole_frames(clip.waveform))) for clip in clips]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/flickr8k"))
    parser.add_argument("--iteration", type=int, default=2)
    parser.add_argument("--layer", type=int, default=5)
    parser.add_argument("--clusters", type=int, default=200)
    parser.add_argument("--train-clips", type=int, default=220)
    parser.add_argument("--dev-clips", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    hubert = HubertModel.from_pretrained(options.runs / "hubert" / f"iteration-{options.iteration}")
    train = list(read_shards(options.runs / "speech", "train", options.train_clips))
    dev = list(read_shards(options.runs / "speech", "dev", options.dev_clips))
    for smoothing in (1, 3, 5):
        known = features_of(hubert, options.layer, smoothing, train)
        new = features_of(hubert, options.layer, smoothing, dev)
        whitening = PCA(64, whiten=True, random_state=0).fit(np.concatenate(known))
        for name, change in (("plain", lambda x: x), ("whitened", whitening.transform)):
            rows = [change(item) for item in known]
            kmeans = MiniBatchKMeans(options.clusters, batch_size=4096, n_init=1, max_iter=40, random_state=0)
            centres = kmeans.fit(np.concatenate(rows)).cluster_centers_
            units = [assign(change(item), centres) for item in new]
            subwords = UnitSubwords.train(
                (remove_repeats(assign(row, centres))[0] for row in rows), options.clusters, 2000
            )
            phones = [
                frame_phones(clip.phones, clip.phone_samples, len(item)) for clip, item in zip(dev, units, strict=True)
            ]
            quality = unit_quality(zip(units, phones, strict=True))
            length = np.mean([len(subwords.encode(remove_repeats(item)[0])) - 2 for item in units])
            print(
                f"{smoothing} frames, {name:8}: information {quality.phone_information:.3f}, "
                f"purity {quality.phone_purity:.3f}, {quality.rate:.1f} units/s, {length:.1f} subwords a caption",
                flush=True,
            )


if __name__ == "__main__":
    main()
