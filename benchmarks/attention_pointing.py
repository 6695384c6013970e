"""Does the attention of an explanation point to what the caption came from? Checked by occlusion.

    python benchmarks/attention_pointing.py PHOTO... [--model NAME|DIR] [--beam 1]

One grid cell of the photo after the other is painted grey, and the tokens of the caption are scored again by the
decoder (teacher-forced). Where the score falls most, the model had needed the picture most. A hit is when that cell is
the one with the most attention: over the whole caption (a trial per photo) and in each stretch of speech (several per
photo). Printed beside the hits: chance (one cell of all), and `other photos`, how often the attention of another photo
points to the cell: what a habit such as looking at the centre would reach. Intervals are 95 %: Wilson's for photos,
for stretches a bootstrap over photos, since stretches of one photo are not independent.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from im2sp.captioner import Captioner
from im2sp.decoding.cache import KVCache
from im2sp.decoding.decoder import DecoderStep, Prefix
from im2sp.decoding.search import DecodingOptions
from im2sp.explain.explanation import explain
from im2sp.explain.timing import attention_in_stretches
from im2sp.image.finding import Photos

BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Pointing:
    """Of one photo: the cell with the most attention and the cell whose loss costs most, numbered row by row."""

    looked: int  # over the whole caption
    needed: int
    looked_in: np.ndarray  # int64 [S], in each stretch
    needed_in: np.ndarray  # int64 [S]


def measure(captioner: Captioner, photo: Path, options: DecodingOptions) -> Pointing:
    """Caption a photo, then score the same tokens with each cell occluded."""
    shown = explain(captioner, photo, options)
    grid = captioner.bundle.config.image.grid
    pixels = captioner.pixels(photo)
    scores = token_scores(captioner, np.stack([pixels, *occluded(pixels, grid)]), shown.caption.tokens)
    drops = (scores[:1] - scores[1:]).T  # [T, cells]
    drops_in = attention_in_stretches(drops.reshape(-1, *grid), shown.boundaries, shown.edges)
    return Pointing(
        looked=int(shown.maps.mean(axis=0).argmax()),
        needed=int(drops.mean(axis=0).argmax()),
        looked_in=shown.stretch_maps.reshape(len(shown.stretch_maps), -1).argmax(axis=1),
        needed_in=drops_in.reshape(len(drops_in), -1).argmax(axis=1),
    )


def occluded(pixels: np.ndarray, grid: tuple[int, int]) -> list[np.ndarray]:
    """Normalised pixels float32 [3, H, W] -> one copy for each cell, grey there: 0 is the mean colour."""
    rows, columns = (
        np.linspace(0, size, count + 1).astype(int) for size, count in zip(pixels.shape[1:], grid, strict=True)
    )
    copies = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            copy = pixels.copy()
            copy[:, rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = 0
            copies.append(copy)
    return copies


def token_scores(captioner: Captioner, pixels: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """pixels float32 [N, 3, H, W], tokens int64 [T] -> log probability of each token after those before, [N, T]."""
    seen = captioner.encode_pixels(pixels)
    return np.concatenate([_token_scores(captioner, prefix, tokens) for prefix in seen])


def _token_scores(captioner: Captioner, prefix: Prefix, tokens: np.ndarray) -> np.ndarray:
    """The same for a prefix: [pictures in it, T]."""
    step = DecoderStep(captioner.graphs.open("decoder"), captioner.bundle.config.decoder, prefix)
    cache: KVCache | None = None
    scores = []
    for position, (before, token) in enumerate(
        zip([captioner.vocabulary.specials.bos, *tokens[:-1]], tokens, strict=True)
    ):
        logits, _, cache = step(np.full(prefix.keys.shape[1], before, dtype=np.int64), position, cache)
        highest = logits.max(axis=1, keepdims=True)
        scores.append(logits[:, token] - highest[:, 0] - np.log(np.exp(logits - highest).sum(axis=1)))
    return np.stack(scores, axis=1)


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z = 1.96
    share, spread = hits / trials, z * z / trials
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)


def bootstrap(hits: Sequence[np.ndarray], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the share of hits over all photos' stretches, photos drawn anew."""
    random = np.random.default_rng(seed)
    sums, sizes = np.array([h.sum() for h in hits]), np.array([len(h) for h in hits])
    drawn = random.integers(len(hits), size=(BOOTSTRAPS, len(hits)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path, help="photos and folders")
    parser.add_argument("--model", default="default")
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    captioner = Captioner.from_pretrained(arguments.model, threads=arguments.threads)
    options = replace(captioner.default_options, beam=arguments.beam)
    found = [measure(captioner, photo, options) for photo in Photos(arguments.photos)]
    cells = math.prod(captioner.bundle.config.image.grid)

    hits = sum(one.looked == one.needed for one in found)
    pairs = [(one, other) for one in found for other in found if one is not other]
    habit = np.mean([other.looked == one.needed for one, other in pairs]) if pairs else math.nan
    low, high = wilson(hits, len(found))
    print(f"captions: {hits} of {len(found)} hits, {hits / len(found):.0%} [{low:.0%}, {high:.0%}]", end="")
    print(f"; chance {1 / cells:.1%}, other photos {habit:.0%}")

    inside = [one.looked_in == one.needed_in for one in found]
    total, trials = sum(int(h.sum()) for h in inside), sum(map(len, inside))
    habit = np.mean([np.mean(other.looked_in[:, None] == one.needed_in) for one, other in pairs]) if pairs else math.nan
    low, high = bootstrap(inside)
    print(f"stretches: {total} of {trials} hits, {total / trials:.0%} [{low:.0%}, {high:.0%}]", end="")
    print(f"; chance {1 / cells:.1%}, other photos {habit:.0%}")


if __name__ == "__main__":
    main()
