"""Draw docs/images/photo-to-speech.svg: a real photo through a real bundle, as plain SVG.

Usage: python docs/figures/make_figures.py [--photo examples/chelsea.jpg] [--model default] [--out docs/images]
Run it again when the embedded bundle changes. The same bundle, photo and libraries give the same file.
"""

from __future__ import annotations

import argparse
import base64
import io
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from im2sp import Captioner, SpeechCaption
from im2sp.arrays import FloatArray
from im2sp.files import replace_whole
from im2sp.image.loading import load_image
from im2sp.speech.audio import HOP, SAMPLE_RATE

ROOT = Path(__file__).parents[2]
NAME = "photo-to-speech.svg"
WIDTH, MARGIN = 920, 24  # of the drawing
PHOTO_TOP, PHOTO_HEIGHT = 58, 170
TRACK_TOP, TRACK_HEIGHT = 296, 44
WAVE_TOP, WAVE_HEIGHT = 376, 90
HEIGHT = 520
GOLDEN_ANGLE = 137.508  # degrees; neighbouring numbers of units get colours that are far apart

STYLE = """
    .page { fill: #ffffff }
    .text { fill: #16202a; font-weight: 600 }
    .soft { fill: #4c5b69; font-size: 12px }
    .line { stroke: #3b4a59; fill: none }
    .wave { stroke: #3b5b7a; fill: none }
    @media (prefers-color-scheme: dark) {
      .page { fill: #12181f }
      .text { fill: #eef3f8 }
      .soft { fill: #b3c0cc }
      .line { stroke: #b7c4d1 }
      .wave { stroke: #8ab4dc }
    }"""


def draw(photo: Image.Image, caption: SpeechCaption, grid: tuple[int, int]) -> str:
    """The photo, where the bundle looked, the units that it chose and their sound, on one time axis -> SVG.

    Args:
        photo: RGB.
        caption: what was said about it.
        grid: (rows, columns) of the last image tokens over the photo.
    """
    seconds = len(caption.waveform) / SAMPLE_RATE
    wide = round(PHOTO_HEIGHT * photo.width / photo.height)
    second = MARGIN + wide + 90
    parts = [
        _text(MARGIN, 30, "A photo"),
        _text(MARGIN, 47, "whatever is in it", "soft"),
        _picture(photo, MARGIN, wide),
        _arrow(MARGIN + wide + 12, PHOTO_TOP + PHOTO_HEIGHT / 2, 66),
        _text(second, 30, f"{grid[0] * grid[1]} image tokens"),
        _text(second, 47, "the brighter, the more the decoder looked there", "soft"),
        _picture(photo, second, wide),
        *_cells(caption.attention, grid, second, wide),
        _text(MARGIN, TRACK_TOP - 24, f"{len(caption.units)} speech units"),
        _text(MARGIN, TRACK_TOP - 7, "each colour is a number; the width is how long it lasts", "soft"),
        *_track(caption),
        _text(MARGIN, WAVE_TOP - 10, "The waveform"),
        _waveform(caption.waveform),
        *_axis(seconds),
    ]
    told = (
        f"A photo becomes {grid[0] * grid[1]} image tokens; from them come {len(caption.units)} speech units, which "
        f"become {seconds:.1f} seconds of speech."
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            'aria-labelledby="title desc" font-family="system-ui, sans-serif" font-size="14">',
            '  <title id="title">From a photo to speech, by the embedded bundle</title>',
            f'  <desc id="desc">{escape(told)}</desc>',
            f"  <style>{STYLE}\n  </style>",
            f'  <rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="10"/>',
            *(f"  {part}" for part in parts),
            "</svg>\n",
        ]
    )


def _text(x: float, y: float, words: str, kind: str = "text", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def _picture(photo: Image.Image, x: float, wide: int) -> str:
    file = io.BytesIO()
    photo.resize((wide, PHOTO_HEIGHT)).save(file, "JPEG", quality=75)
    data = base64.b64encode(file.getvalue()).decode()
    where = f'x="{x:g}" y="{PHOTO_TOP}" width="{wide}" height="{PHOTO_HEIGHT}"'
    return f'<image {where} href="data:image/jpeg;base64,{data}"/>'


def _arrow(x: float, y: float, length: float) -> str:
    tip = x + length
    return (
        f'<path class="line" stroke-width="2" d="M{x:g} {y:g}H{tip:g}M{tip - 8:g} {y - 5:g}L{tip:g} {y:g}'
        f'L{tip - 8:g} {y + 5:g}"/>'
    )


def _cells(attention: FloatArray, grid: tuple[int, int], left: float, wide: int) -> list[str]:
    """A veil over each cell of the grid, the thinner the more of the attention it got."""
    rows, columns = grid
    looked = attention[:, -rows * columns :].mean(axis=0)
    veil = 0.75 * (1 - looked / max(float(looked.max()), 1e-9))
    across, down = wide / columns, PHOTO_HEIGHT / rows
    return [
        f'<rect x="{left + place % columns * across:.1f}" y="{PHOTO_TOP + place // columns * down:.1f}" '
        f'width="{across:.1f}" height="{down:.1f}" fill="#000" fill-opacity="{veil[place]:.2f}" '
        'stroke="#fff" stroke-opacity="0.5"/>'
        for place in range(rows * columns)
    ]


def _track(caption: SpeechCaption) -> list[str]:
    scale = (WIDTH - 2 * MARGIN) / max(1, int(caption.durations.sum()))
    starts = np.cumsum(caption.durations) - caption.durations
    return [
        f'<rect x="{MARGIN + start * scale:.1f}" y="{TRACK_TOP}" width="{duration * scale:.1f}" '
        f'height="{TRACK_HEIGHT}" fill="hsl({unit * GOLDEN_ANGLE % 360:.0f} 55% 55%)"><title>unit {unit}, '
        f"{duration * HOP * 1000 // SAMPLE_RATE} ms</title></rect>"
        for unit, start, duration in zip(
            caption.units.tolist(), starts.tolist(), caption.durations.tolist(), strict=True
        )
    ]


def _waveform(waveform: FloatArray) -> str:
    """For each pixel a line from the lowest to the highest sample."""
    columns = np.array_split(waveform, WIDTH - 2 * MARGIN)
    middle, half, loudest = WAVE_TOP + WAVE_HEIGHT / 2, WAVE_HEIGHT / 2, max(float(np.abs(waveform).max()), 1e-9)
    strokes = (
        f"M{MARGIN + x} {middle - half * column.max() / loudest:.1f}V{middle - half * column.min() / loudest:.1f}"
        for x, column in enumerate(columns)
        if column.size
    )
    return f'<path class="wave" d="{"".join(strokes)}"/>'


def _axis(seconds: float) -> list[str]:
    y, scale = WAVE_TOP + WAVE_HEIGHT + 14, (WIDTH - 2 * MARGIN) / seconds
    marks = np.arange(0, seconds, 0.5)
    return [
        f'<path class="line" d="M{MARGIN} {y}H{WIDTH - MARGIN}"/>',
        *(f'<path class="line" d="M{MARGIN + mark * scale:.1f} {y}v5"/>' for mark in marks),
        *(_text(round(MARGIN + mark * scale, 1), y + 20, f"{mark:g} s", "soft", "middle") for mark in marks),
    ]


def main() -> None:
    """Draw what the options ask for."""
    parser = argparse.ArgumentParser(description="Draws the figures of the documentation.")
    parser.add_argument("--photo", type=Path, default=ROOT / "examples" / "chelsea.jpg")
    parser.add_argument("--model", default="default", help="name of a packaged bundle, or a bundle folder")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    captioner = Captioner.from_pretrained(options.model, threads=1)
    photo = load_image(options.photo)
    svg = draw(photo, captioner.caption(photo), captioner.bundle.config.image.grid)
    with replace_whole(options.out / NAME) as temporary:
        temporary.write_text(svg, encoding="utf-8")
    print(options.out / NAME)


if __name__ == "__main__":
    main()
