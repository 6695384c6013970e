"""Speech units clustered in several ways, scored side by side on dev clips.

    python benchmarks/unit_variants.py [--runs runs/flickr8k] [--iteration 3] [--layer 4]

A small convolutional network learns to name the phone of every frame from the units around it. Its accuracy on dev
clips says what a vocoder can still hear in the units, context included; phone information and purity
(im2sp.train.evaluate.unit_quality) judge each frame alone. Beside them: units a second without repeats, and subwords
a caption. Seed 0; about two minutes a row on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import HubertModel

from im2sp.speech.units import remove_repeats
from im2sp.train.data.mfcc import WIDTH
from im2sp.train.data.speech_shards import SpokenCaption, as_floats, read_shards
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.evaluate.unit_quality import frame_phones, unit_quality
from im2sp.train.models.speech_encoder import averaged, whole_frames
from im2sp.train.models.unit_vocoder import ConvNextBlock
from im2sp.train.precision import products
from im2sp.train.stages.hubert import fit_clusters, layer_features

SEGMENT = 128  # frames
STEPS, BATCH, RATE = 700, 16, 2e-3

# (what is clustered, share of HuBERT's spread, frames averaged, clusters)
VARIANTS = (
    ("hubert", 1.0, 3, 200),
    ("cepstra", 0.0, 3, 200),
    ("both", 0.5, 3, 200),
    ("both", 1.0, 3, 200),
    ("both", 0.5, 3, 500),
)


class PhoneProbe(nn.Module):
    """Units of a clip -> phone of every frame, from 13 frames on each side."""

    def __init__(self, units: int, phones: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(units, 160)
        self.blocks = nn.Sequential(*(ConvNextBlock(160, 480, 7) for _ in range(4)))
        self.head = nn.Linear(160, phones)

    def forward(self, units: Tensor) -> Tensor:
        """Units int64 [B, F] -> logits float32 [B, F, phones]."""
        return self.head(self.blocks(self.embedding(units).transpose(1, 2)).transpose(1, 2)).float()


def phones_from_context(
    train: list[tuple[np.ndarray, np.ndarray]], dev: list[tuple[np.ndarray, np.ndarray]], units: int, phones: int
) -> float:
    """Accuracy of a probe trained on (units [F], phone numbers [F]) of train clips, over the frames of dev clips."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    probe = PhoneProbe(units, phones)
    optimizer = torch.optim.AdamW(probe.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.07)
    long = [pair for pair in train if len(pair[0]) > SEGMENT]
    for _ in range(STEPS):
        batch = []
        for index in rng.integers(len(long), size=BATCH):
            start = rng.integers(len(long[index][0]) - SEGMENT)
            batch.append([row[start : start + SEGMENT].astype(np.int64) for row in long[index]])
        seen, wanted = torch.from_numpy(np.stack(batch)).unbind(1)
        with products("cpu"):
            logits = probe(seen)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    right = frames = 0
    with torch.inference_mode():
        for clip_units, clip_phones in dev:
            named = probe(torch.from_numpy(clip_units.astype(np.int64))[None])[0].argmax(-1).numpy()
            right += int((named == clip_phones).sum())
            frames += len(clip_phones)
    return right / frames


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/flickr8k"))
    parser.add_argument("--iteration", type=int, default=3)
    parser.add_argument("--layer", type=int, default=4)
    parser.add_argument("--train-clips", type=int, default=1500)
    parser.add_argument("--dev-clips", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    hubert = HubertModel.from_pretrained(options.runs / "hubert" / f"iteration-{options.iteration}")
    features = layer_features(hubert, options.layer, cepstra=True)

    def measured(split: str, count: int) -> tuple[list[SpokenCaption], list[np.ndarray]]:
        clips = list(read_shards(options.runs / "speech", split, count))
        return clips, [features(as_floats(whole_frames(clip.waveform))) for clip in clips]

    train, dev = measured("train", options.train_clips), measured("dev", options.dev_clips)
    names: dict[str, int] = {}
    named = [
        [frame_phones(c.phones, c.phone_samples, len(f)) for c, f in zip(*part, strict=True)] for part in (train, dev)
    ]
    numbered = [[np.array([names.setdefault(p, len(names)) for p in clip]) for clip in part] for part in named]
    for what, share, frames, count in VARIANTS:
        columns = slice(0, -WIDTH) if what == "hubert" else slice(-WIDTH, None) if what == "cepstra" else slice(None)
        known, new = (
            [averaged(torch.from_numpy(item[None, :, columns]), frames)[0].numpy() for item in part[1]]
            for part in (train, dev)
        )
        context = hubert.config.hidden_size if what == "both" else 0
        clusters = fit_clusters(np.concatenate(known)[:60_000], count, context, share)
        units, heard = [clusters.assign(item) for item in known], [clusters.assign(item) for item in new]
        subwords = UnitSubwords.train((remove_repeats(item)[0] for item in units), count, count + 1800)
        length = np.mean([len(subwords.encode(remove_repeats(item)[0])) - 2 for item in heard])
        quality = unit_quality(zip(heard, named[1], strict=True))
        accuracy = phones_from_context(
            list(zip(units, numbered[0], strict=True)), list(zip(heard, numbered[1], strict=True)), count, len(names)
        )
        print(
            f"{what:7} share {share:.1f}, {frames} frames, {count} clusters: phones from context {accuracy:.1%}, "
            f"information {quality.phone_information:.3f}, purity {quality.phone_purity:.3f}, "
            f"{quality.rate:.1f} units/s, {length:.1f} subwords a caption",
            flush=True,
        )


if __name__ == "__main__":
    main()
