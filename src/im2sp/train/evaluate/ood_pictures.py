"""Fixed pictures that no caption fits: blank, noise, gradients, screens of text, charts and codes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIZE = (480, 360)  # of each picture
_LETTERS = list("aabcdeeefghiijklmnnoopqrrssttuvwxyz")
_PLAIN = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "blue": (20, 60, 180)}


def ood_pictures(count: int = 4) -> dict[str, Image.Image]:
    """Draw RGB pictures, `count` of each kind, by names "<kind>-<number>".

    Kinds are blank, noise, gradient, text, chart and code.
    """
    pictures = {f"blank-{name}": Image.new("RGB", _SIZE, colour) for name, colour in _PLAIN.items()}
    for seed in range(count):
        for kind, draw in (
            ("blank", _blank),
            ("noise", _noise),
            ("gradient", _gradient),
            ("text", _text),
            ("chart", _chart),
            ("code", _code),
        ):
            pictures[f"{kind}-{seed}"] = draw(np.random.default_rng([seed, *kind.encode()]))
    return pictures


def _blank(random: np.random.Generator) -> Image.Image:
    return Image.new("RGB", _SIZE, tuple(random.integers(0, 256, 3).tolist()))


def _noise(random: np.random.Generator) -> Image.Image:
    noise = random.normal(128, random.uniform(30, 90), (_SIZE[1], _SIZE[0], 3))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def _gradient(random: np.random.Generator) -> Image.Image:
    corners = random.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize(_SIZE, Image.Resampling.BILINEAR)


def _text(random: np.random.Generator) -> Image.Image:
    """Lines of meaningless words, dark on light as on a page or light on dark as in a terminal."""
    paper, ink = [(255, 20), (20, 230)][int(random.integers(2))]
    page = Image.new("RGB", _SIZE, (paper,) * 3)
    draw, size = ImageDraw.Draw(page), int(random.integers(12, 24))
    for y in range(10, _SIZE[1] - size, round(size * 1.5)):
        words = ("".join(random.choice(_LETTERS, length)) for length in random.integers(2, 10, 40 // (size // 4)))
        draw.text((12, y), " ".join(words), (ink,) * 3, ImageFont.load_default(size))  # Pillow's own font
    return page


def _chart(random: np.random.Generator) -> Image.Image:
    page = Image.new("RGB", _SIZE, (255, 255, 255))
    draw, colour = ImageDraw.Draw(page), tuple(random.integers(0, 200, 3).tolist())
    for x, height in zip(range(60, 440, 40), random.uniform(20, 280, 10), strict=True):
        draw.rectangle((x, 320 - height, x + 26, 320), colour)
        draw.text((x, 326), str(int(height)), (0, 0, 0), ImageFont.load_default(12))
    draw.line((50, 20, 50, 320, 460, 320), (0, 0, 0), 2)
    return page


def _code(random: np.random.Generator) -> Image.Image:
    """A two-dimensional code of black and white cells."""
    cells = (random.random((33, 33)) < 0.5).astype(np.uint8) * 255
    page = Image.new("RGB", _SIZE, (255, 255, 255))
    page.paste(Image.fromarray(cells).resize((300, 300), Image.Resampling.NEAREST), (90, 30))
    return page
