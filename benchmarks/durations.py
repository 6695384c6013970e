"""What durations are worth: word error rate of resynthesised speech by where the durations of its units come from.

    python benchmarks/durations.py --recipe recipes/flickr8k/gpu.toml [--model default] [--runs RUNS] [--clips 60]

RUNS is the folder of a run with spoken captions (stage `speak`); the first clips of its dev part become units by the
bundle's speech encoder and speech again by its vocoder. Durations, in frames of 20 ms:

    true           as they were
    shifted        one unit of ten gives a frame to a neighbour: a fifth of the durations are wrong by one frame then,
                   as many as the predictor has wrong, and the whole is as long as it was
    grouped        as predicted, but every eight units together are as long as they were
    alone          as predicted, each rounded by itself
    predicted      as the bundle predicts and rounds them

Printed for each: how many durations are right, length against the true one, and the word error rate with its 95 %
interval; then the ratio of the errors with predicted and with true durations. Everything is drawn with seed 0.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from im2sp import Captioner
from im2sp.arrays import FloatArray, IntArray
from im2sp.speech.durations import ErrorDiffusion
from im2sp.speech.units import remove_repeats
from im2sp.train.data.speech_shards import as_floats, read_shards
from im2sp.train.evaluate.recognisers import open_recogniser
from im2sp.train.evaluate.words import word_error_rate
from im2sp.train.recipe import Recipe

GROUP = 8  # units
SHIFTED = 0.105  # share of the units that give a frame away


def shifted(true: IntArray, draw: np.random.Generator) -> IntArray:
    """Durations int64 [U], some of them with a frame of a neighbour's, no one changed twice."""
    found, todo = true.copy(), int(SHIFTED * len(true))
    for place in draw.permutation(len(true)).tolist():
        other = place + int(draw.choice((-1, 1)))
        if todo and 0 <= other < len(true) and true[place] > 1 and (found == true)[[place, other]].all():
            found[place] -= 1
            found[other] += 1
            todo -= 1
    return found


def grouped(means: FloatArray, true: IntArray) -> IntArray:
    """Predicted durations [U] where every GROUP units share the frames that they had, one at least for each."""
    found = np.ones_like(true)
    for first in range(0, len(true), GROUP):
        part = slice(first, first + GROUP)
        spare, wanted = true[part].sum() - len(true[part]), np.maximum(means[part] - 1, 1e-6)
        shares = wanted / wanted.sum() * spare
        found[part] += shares.astype(np.int64)
        rest = spare - int(shares.astype(np.int64).sum())
        found[part][np.argsort(-(shares % 1), kind="stable")[:rest]] += 1
    return found


def predicted_means(captioner: Captioner, units: IntArray) -> FloatArray:
    """What the predictor of a bundle expects, before it is rounded: float [U] frames of units int64 [U]."""
    (log_durations,) = captioner.graphs.open("duration_predictor").run(units=units[None])
    means: FloatArray = np.exp(log_durations[0]) - 1
    return means


def durations_of(captioner: Captioner, units: IntArray, true: IntArray, seed: int) -> dict[str, IntArray]:
    """Durations int64 [U] of units without repeats, by where they come from."""
    means = predicted_means(captioner, units)
    return {
        "true": true,
        "shifted": shifted(true, np.random.default_rng(seed)),
        "grouped": grouped(means, true),
        "alone": ErrorDiffusion(100).round(means),
        "predicted": captioner.vocoder.predict_durations(units),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/flickr8k/gpu.toml"))
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--model", default="default", help="bundle")
    parser.add_argument("--clips", type=int, default=60)
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe, runs=arguments.runs)
    captioner = Captioner.from_pretrained(arguments.model)
    clips = list(read_shards(recipe.speech, "dev", arguments.clips))
    spoken = {clip.caption_id: remove_repeats(captioner.units(as_floats(clip.waveform))) for clip in clips}
    durations = {
        name: durations_of(captioner, units, true, seed) for seed, (name, (units, true)) in enumerate(spoken.items())
    }

    def waves() -> Iterator[tuple[str, FloatArray]]:
        for name, (units, _) in spoken.items():
            for kind, frames in durations[name].items():
                yield f"{name}/{kind}", captioner.speak(units, frames).waveform

    recogniser = open_recogniser(recipe.recogniser, len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        heard = recogniser.transcribe_all(waves(), Path(folder) / "heard.jsonl")
    true = np.concatenate([frames for _, frames in spoken.values()])
    print(
        f"{len(clips)} clips, {len(true)} units\n\n| durations | right | length | word error rate |\n|---|---|---|---|"
    )
    rates = {}
    for kind in next(iter(durations.values())):
        frames = np.concatenate([found[kind] for found in durations.values()])
        rate = word_error_rate([clip.text for clip in clips], [heard[f"{clip.caption_id}/{kind}"] for clip in clips])
        rates[kind] = rate.rate
        right, length = (frames == true).mean(), frames.sum() / true.sum()
        print(f"| {kind} | {right:.1%} | {length:.3f} | {rate.rate:.1f} ({rate.low:.1f}-{rate.high:.1f}) |")
    print(f"\nword error rate, predicted / true durations: {rates['predicted'] / max(rates['true'], 1e-9):.2f} times")


if __name__ == "__main__":
    main()
