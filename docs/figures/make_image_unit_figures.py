"""Draw docs/images/image-units-rate.svg, image-units-start.svg and image-units-pictures.jpg.

The first two from a run of benchmarks/image_units.py, as plain SVG; the pictures are dev photos above what the units of
its ViT-VQGAN still hold of them.

Usage: python docs/figures/make_image_unit_figures.py RUNS [--data ../shared/flickr8k] [--out docs/images]
The same run gives the same files.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_figures import ROOT
from PIL import Image
from svg import beginning, text

from im2sp.files import replace_whole
from im2sp.image.loading import load_image
from im2sp.train.data.flickr8k import photo_path, read_split
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.training.photo_crops import unit_pixels

SIDE, TOP = 300, 64  # of the square that is plotted into
LEFTS = (64, 64 + SIDE + 76)
WIDTH, HEIGHT = LEFTS[1] + SIDE + 32, TOP + SIDE + 88
COLOURS = """
    .curve { stroke: #3b5b7a; stroke-width: 2.5; fill: none }
    .other { stroke: #b0562f; stroke-width: 2.5; fill: none }
    .third { stroke: #4d7f4a; stroke-width: 2.5; fill: none }
    .dashed { stroke-dasharray: 6 4 }
    .point { fill: #3b5b7a }
    .otherpoint { fill: #b0562f }
    .even { stroke: #8a96a3; stroke-dasharray: 5 4; fill: none }
    @media (prefers-color-scheme: dark) { .curve { stroke: #8ab4dc } .point { fill: #8ab4dc } }"""
KINDS = {"features": "curve", "semantic": "other", "vit-vqgan": "third"}
PHOTOS, PIXELS = 6, 160  # of the pictures


def rate(rows: Sequence[dict[str, Any]]) -> str:
    """Bits of a photo against CIDEr and BLEU-4 -> SVG."""
    spoken = [row for row in rows if row.get("scores") and row["photos"] == _fewest(rows)]
    swept = (row for row in spoken if row["row"].startswith("rate/") and row["row"].count("/") == 1)
    semantic = sorted(swept, key=lambda row: int(row["bits"]))
    vit_vqgan = [row for row in spoken if row["row"].startswith("vit-vqgan")]
    parent = next(row for row in spoken if row["row"] == "parent")
    parts, ticks = [], [(math.log2(bits), f"{bits:,}") for bits in (64, 256, 1024, 4096, 16384)]
    for left, score, title, places in zip(LEFTS, ("cider", "bleu4"), ("CIDEr", "BLEU-4"), (2, 0), strict=True):
        top = 1.15 * max(row["scores"][score] for row in spoken)
        plot = _Plot(left, (math.log2(48), math.log2(24_000)), (0.0, top))
        best = parent["scores"][score]
        line = [(math.log2(row["bits"]), row["scores"][score]) for row in semantic]
        parts += [
            *plot.frame("bits a photo", title, ticks, places),
            f'<path class="even" d="M{plot.left} {plot.y(best):.1f}h{SIDE}"/>',
            text(plot.left + SIDE, plot.y(best) - 6, "the parent, on features", "end"),
            plot.path(line, "curve"),
            *(_circle(plot.x(x), plot.y(y), "point", f"{2**x:.0f} bits: {y:.3g}") for x, y in line),
        ]
        for row in vit_vqgan:
            x, y = plot.x(math.log2(row["bits"])), plot.y(row["scores"][score])
            parts += [_circle(x, y, "otherpoint", f"{row['bits']} bits: {row['scores'][score]:.3g}")]
            parts += [text(x, y + 20, "ViT-VQGAN", "middle")]
    told = f"Semantic units by their rate on {parent['photos']} dev photos, by speech, beside ViT-VQGAN units."
    return _drawing("What captions keep at how many bits a photo", told, parts)


def start(curves: dict[str, list[dict[str, float]]]) -> str:
    """Held-out loss by step of every input and start, `input/weights[/plain]` -> SVG."""
    low = min(point["held_out"] for curve in curves.values() for point in curve)
    high = max(point["held_out"] for curve in curves.values() for point in curve)
    last = max(point["step"] for curve in curves.values() for point in curve)
    plot = _Plot(LEFTS[0], (0, last), (0.9 * low, 1.05 * high))
    ticks = [(last * part / 3, f"{last * part / 3:.0f}") for part in range(4)]
    parts = plot.frame("step", "held-out loss, nats a token", ticks, 1)
    at = TOP + 10
    for name, curve in sorted(curves.items()):
        kind, weights, *more = name.split("/")
        style = KINDS[kind] + (" dashed" if weights == "scratch" else "")
        if more:
            continue  # without augmentation: in the table
        parts.append(plot.path([(point["step"], point["held_out"]) for point in curve], style))
        parts.append(f'<path class="{style}" d="M{LEFTS[1]} {at - 4}h34"/>')
        end = curve[-1]["held_out"]
        said = "from text" if weights == "text" else "from scratch"
        parts.append(text(LEFTS[1] + 44, at, f"{kind}, {said}: {end:.2f}"))
        at += 24
    told = "Loss on held-out sentences of translators that start from the text captioner or from scratch."
    return _drawing("Transfer against scratch", told, parts)


def pictures(data: Path, tokenizer: VitVqgan) -> Image.Image:
    """Dev photos above what their units hold, at the size of the tokenizer."""
    names = read_split(data, "dev")
    chosen = [names[row] for row in np.random.default_rng(0).choice(len(names), PHOTOS, replace=False)]
    side = tokenizer.config.image_size
    pixels = torch.stack([unit_pixels(load_image(photo_path(data, name)), side) for name in chosen])
    with torch.inference_mode():
        again = tokenizer.decode(tokenizer.encode(pixels))
    rows = [torch.cat(list(row), 2) for row in (pixels, again)]
    grey = (torch.cat(rows, 1).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(grey).resize((PHOTOS * PIXELS, 2 * PIXELS), Image.Resampling.BICUBIC)


class _Plot:
    """A square with a scale across and one up."""

    def __init__(self, left: int, across: tuple[float, float], up: tuple[float, float]) -> None:
        self.left, self._across, self._up = left, across, up

    def x(self, value: float) -> float:
        low, high = self._across
        return self.left + SIDE * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self._up
        return TOP + SIDE * (1 - (value - low) / (high - low))

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> str:
        return f'<path class="{kind}" d="M' + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points) + '"/>'

    def frame(self, across: str, up: str, ticks: Sequence[tuple[float, str]], places: int) -> list[str]:
        """Axes, their ticks and names."""
        low, high = self._up
        heights = [low + (high - low) * part / 5 for part in range(6)]
        middle = TOP + SIDE / 2
        return [
            f'<path class="line" d="M{self.left} {TOP}V{TOP + SIDE}H{self.left + SIDE}"/>',
            *(text(self.x(value), TOP + SIDE + 20, name, "middle") for value, name in ticks),
            *(text(self.left - 8, self.y(value) + 4, f"{value:.{places}f}", "end") for value in heights),
            text(self.left + SIDE / 2, TOP + SIDE + 44, across, "middle"),
            text(self.left - 46, middle, up, "middle", more=f' transform="rotate(-90 {self.left - 46} {middle:g})"'),
        ]


def _fewest(rows: Sequence[dict[str, Any]]) -> int:
    """Of how many photos the sweep is."""
    return min(row["photos"] for row in rows if row.get("scores") and row["row"].startswith("rate/"))


def _circle(x: float, y: float, kind: str, told: str) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escape(told)}</title></circle>'


def _drawing(title: str, told: str, parts: Sequence[str]) -> str:
    return "\n".join(
        [
            *beginning(title, told, WIDTH, HEIGHT, COLOURS),
            text(LEFTS[0], 34, title, kind="text"),
            *parts,
            "</svg>\n",
        ]
    )


def _curves(runs: Path, rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """Held-out losses of the rows of starts that have no seed of their own, by their names."""
    found = {}
    for row in rows:
        if row["row"].startswith("start/") and not row["row"].split("/")[-1].isdecimal():
            (log,) = (runs / "rows" / row["row"].replace("/", "-")).glob("tra*/log.jsonl")
            name = row["row"].removeprefix("start/")
            found[name] = [json.loads(line) for line in log.read_text().splitlines()]
    return found


def main() -> None:
    """Draw what there is."""
    parser = argparse.ArgumentParser(description="Draws the figures of image units.")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/flickr8k"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    rows = [json.loads(line) for line in (options.runs / "rows.jsonl").read_text().splitlines()]
    drawings = {"image-units-rate": rate(rows)}
    if curves := _curves(options.runs, rows):
        drawings["image-units-start"] = start(curves)
    for name, drawing in drawings.items():
        with replace_whole(options.out / f"{name}.svg") as temporary:
            temporary.write_text(drawing, encoding="utf-8")
    picture = pictures(options.data, VitVqgan.load(options.runs / "image_tokenizer"))
    picture.save(options.out / "image-units-pictures.jpg", quality=80)


if __name__ == "__main__":
    main()
