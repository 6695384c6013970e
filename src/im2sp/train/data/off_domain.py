"""Pictures that no photo captioner can describe: a seed in, blank pages, noise, screens, scans and charts out.

Two sets that share no kind of picture: `TESTED` measures whether they come out as unsure, `FITTED` is what the
calibration may learn from. The same seed gives the same pixels, with the same version of Pillow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

EACH = 5  # pictures of a kind
_SIZES = ((480, 360), (360, 480), (500, 333), (400, 400))  # of a picture, as photos have them
_LETTERS = "aabcdeeefghiijklmnnoopqrrssttuvwxyz"

Random = np.random.Generator
Colour = tuple[int, int, int]
Maker = Callable[[Random, Image.Image], Image.Image]


def pictures(makers: Mapping[str, Maker], seed: int, each: int = EACH) -> Iterator[tuple[str, Image.Image]]:
    """(name, RGB picture), `each` of every kind: `TESTED` or `FITTED`."""
    for kind, maker in makers.items():
        for number in range(each):
            random = np.random.default_rng([seed, number, *kind.encode()])
            size = _SIZES[random.integers(len(_SIZES))]
            yield f"{kind}-{number}", maker(random, Image.new("RGB", size, _paper(random))).convert("RGB")


def _paper(random: Random) -> Colour:
    """White, as scans and screens have it."""
    return _grey(random, 235, 256)


def _grey(random: Random, low: int, high: int) -> Colour:
    return (int(random.integers(low, high)),) * 3


def _colour(random: Random) -> Colour:
    red, green, blue = random.integers(0, 256, 3).tolist()
    return red, green, blue


def _words(random: Random, count: int) -> str:
    lengths = random.integers(2, 10, count)
    return " ".join("".join(random.choice(list(_LETTERS), length)) for length in lengths)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # Pillow's own, so that no machine's fonts matter


def _array(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _lines(draw: ImageDraw.ImageDraw, random: Random, box: tuple[int, int, int, int], size: int, ink: Colour) -> None:
    """Fill a box (left, top, right, bottom) with lines of words that mean nothing."""
    left, top, right, bottom = box
    for y in range(top, bottom - size, round(size * 1.5)):
        words = _words(random, max(1, (right - left) // (4 * size)))
        draw.text((left, y), words[: (right - left) * 2 // size], ink, _font(size))


def _blank(random: Random, page: Image.Image) -> Image.Image:
    colours = ((0, 0, 0), (255, 255, 255), _colour(random))
    return Image.new("RGB", page.size, colours[random.integers(len(colours))])


def _noise(random: Random, page: Image.Image) -> Image.Image:
    coloured = random.random() < 0.5
    noise = random.normal(128, random.uniform(30, 90), (page.height, page.width, 3 if coloured else 1))
    return _array(np.broadcast_to(noise, (page.height, page.width, 3)))


def _gradient(random: Random, page: Image.Image) -> Image.Image:
    first, last = np.array(_colour(random)), np.array(_colour(random))
    angle = random.uniform(0, np.pi)
    across, down = np.meshgrid(np.linspace(-1, 1, page.width), np.linspace(-1, 1, page.height))
    share = (across * np.cos(angle) + down * np.sin(angle)) / 2.83 + 0.5
    return _array(first + share[..., None] * (last - first))


def _screenshot(random: Random, page: Image.Image) -> Image.Image:
    draw, accent = ImageDraw.Draw(page), _colour(random)
    draw.rectangle((0, 0, page.width, 28), accent)
    draw.text((10, 6), _words(random, 3), (255, 255, 255), _font(15))
    draw.rectangle((0, 28, 90, page.height), (225, 228, 232))
    _lines(draw, random, (8, 40, 88, page.height // 2), 11, (60, 60, 70))
    _lines(draw, random, (104, 44, page.width - 12, page.height - 10), int(random.integers(11, 16)), (20, 20, 20))
    return page


def _form(random: Random, page: Image.Image) -> Image.Image:
    draw, ink = ImageDraw.Draw(page), _grey(random, 0, 80)
    draw.text((30, 14), _words(random, 3), ink, _font(22))
    for y in range(60, page.height - 30, 34):
        draw.text((30, y), _words(random, 2)[:14], ink, _font(12))
        if random.random() < 0.3:
            for x in range(150, page.width - 40, 60):
                draw.rectangle((x, y, x + 13, y + 13), outline=ink)
        else:
            draw.rectangle((150, y - 4, page.width - 30, y + 18), outline=ink)
    return page.rotate(random.uniform(-3, 3), fillcolor=_paper(random)).filter(ImageFilter.GaussianBlur(0.6))


def _barcode(random: Random, page: Image.Image) -> Image.Image:
    draw, x = ImageDraw.Draw(page), page.width // 8
    top, bottom = page.height // 5, page.height * 4 // 5
    while x < page.width * 7 // 8:
        wide = int(random.integers(1, 5)) * 2
        draw.rectangle((x, top, x + wide - 1, bottom), (0, 0, 0))
        x += wide + int(random.integers(1, 4)) * 2
    draw.text((page.width // 4, bottom + 6), " ".join(map(str, random.integers(0, 10, 12))), (0, 0, 0), _font(16))
    return page


def _checkerboard(random: Random, page: Image.Image) -> Image.Image:
    side = int(random.integers(8, 60))
    rows, columns = np.indices((page.height, page.width)) // side
    colours = np.array([_colour(random), _colour(random)])
    return _array(colours[(rows + columns) % 2])


def _bar_chart(random: Random, page: Image.Image) -> Image.Image:
    draw, fill = ImageDraw.Draw(page), _colour(random)
    left, bottom, count = 50, page.height - 40, int(random.integers(4, 11))
    step = (page.width - left - 20) / count
    for number, value in enumerate(random.uniform(0.1, 1, count)):
        x = left + number * step
        draw.rectangle((x + 4, bottom - value * (bottom - 50), x + step - 4, bottom), fill)
        draw.text((x + 4, bottom + 6), _words(random, 1)[:5], (40, 40, 40), _font(11))
    draw.line((left, 40, left, bottom, page.width - 15, bottom), (0, 0, 0), 2)
    draw.text((left, 12), _words(random, 4), (0, 0, 0), _font(16))
    return page


def _line_chart(random: Random, page: Image.Image) -> Image.Image:
    draw, bottom = ImageDraw.Draw(page), page.height - 35
    for y in range(30, bottom, 40):
        draw.line((45, y, page.width - 15, y), (215, 215, 215))
        draw.text((8, y - 6), str(int(random.integers(1000))), (60, 60, 60), _font(11))
    for _ in range(int(random.integers(1, 5))):
        heights = np.clip(0.5 + np.cumsum(random.normal(0, 0.08, 40)), 0, 1)
        points = list(zip(np.linspace(45, page.width - 15, 40), 30 + heights * (bottom - 30), strict=True))
        draw.line(points, _colour(random), 3)
    draw.line((45, 25, 45, bottom, page.width - 15, bottom), (0, 0, 0), 2)
    return page


def _receipt(random: Random, page: Image.Image) -> Image.Image:
    paper = Image.new("RGB", (page.width // 2, page.height), _paper(random))
    draw, ink = ImageDraw.Draw(paper), _grey(random, 20, 90)
    draw.text((20, 12), _words(random, 2), ink, _font(18))
    for y in range(50, page.height - 40, 20):
        draw.text((12, y), _words(random, 2)[:16], ink, _font(12))
        draw.text((paper.width - 50, y), f"{random.uniform(0, 99):.2f}", ink, _font(12))
    table = Image.new("RGB", page.size, _grey(random, 90, 160))
    table.paste(paper, (page.width // 4, 0))
    return table.rotate(random.uniform(-4, 4), fillcolor=_grey(random, 90, 160))


def _stripes(random: Random, page: Image.Image) -> Image.Image:
    across, down = np.meshgrid(np.arange(page.width), np.arange(page.height))
    angle, length = random.uniform(0, np.pi), random.uniform(10, 80)
    share = np.sin((across * np.cos(angle) + down * np.sin(angle)) * 2 * np.pi / length) > 0
    return _array(np.where(share[..., None], _colour(random), _colour(random)))


def _mosaic(random: Random, page: Image.Image) -> Image.Image:
    small = random.integers(0, 256, (*random.integers(4, 20, 2), 3), dtype=np.uint8)
    return Image.fromarray(small).resize(page.size, Image.Resampling.NEAREST)


def _clouds(random: Random, page: Image.Image) -> Image.Image:
    small = random.integers(0, 256, (*random.integers(3, 12, 2), 3), dtype=np.uint8)
    return Image.fromarray(small).resize(page.size, Image.Resampling.BICUBIC)


def _terminal(random: Random, page: Image.Image) -> Image.Image:
    dark = Image.new("RGB", page.size, _grey(random, 0, 45))
    draw = ImageDraw.Draw(dark)
    for y in range(8, page.height - 14, 18):
        indent = 10 + 16 * int(random.integers(4))
        draw.text((indent, y), _words(random, int(random.integers(1, 7))), _colour(random), _font(13))
    return dark


def _table(random: Random, page: Image.Image) -> Image.Image:
    draw, wide = ImageDraw.Draw(page), int(random.integers(50, 110))
    for y in range(0, page.height, 24):
        draw.line((0, y, page.width, y), (180, 180, 180))
        for x in range(0, page.width, wide):
            word = _words(random, 1) if x == 0 else str(int(random.integers(100_000)))
            draw.text((x + 5, y + 5), word[: wide // 9], (30, 30, 30), _font(12))
    for x in range(0, page.width, wide):
        draw.line((x, 0, x, page.height), (180, 180, 180))
    return page


def _dot_code(random: Random, page: Image.Image) -> Image.Image:
    count, side = int(random.integers(21, 42)), min(page.size) * 3 // 4
    cells = (random.random((count, count)) < 0.5).astype(np.uint8) * 255
    code = Image.fromarray(cells).resize((side, side), Image.Resampling.NEAREST)
    page.paste(code, ((page.width - side) // 2, (page.height - side) // 2))
    return page


def _pie_chart(random: Random, page: Image.Image) -> Image.Image:
    draw, side = ImageDraw.Draw(page), min(page.size) * 2 // 3
    edges = np.cumsum(random.dirichlet(np.full(int(random.integers(3, 8)), 3.0))) * 360
    for start, end in zip([0, *edges[:-1]], edges, strict=True):
        draw.pieslice((30, 50, 30 + side, 50 + side), start, end, _colour(random))
    draw.text((30, 14), _words(random, 3), (0, 0, 0), _font(18))
    return page


def _letter(random: Random, page: Image.Image) -> Image.Image:
    draw, ink = ImageDraw.Draw(page), _grey(random, 0, 70)
    _lines(draw, random, (page.width // 2, 24, page.width - 20, 90), 12, ink)
    _lines(draw, random, (30, 120, page.width - 30, page.height - 60), 13, ink)
    return page.filter(ImageFilter.GaussianBlur(random.uniform(0, 1.2)))


def _rings(random: Random, page: Image.Image) -> Image.Image:
    across, down = np.meshgrid(np.arange(page.width), np.arange(page.height))
    radius = np.hypot(across - random.uniform(0, page.width), down - random.uniform(0, page.height))
    share = 0.5 + 0.5 * np.sin(radius * 2 * np.pi / random.uniform(12, 70))
    first, last = np.array(_colour(random)), np.array(_colour(random))
    return _array(first + share[..., None] * (last - first))


def _staves(random: Random, page: Image.Image) -> Image.Image:
    draw = ImageDraw.Draw(page)
    for top in range(30, page.height - 50, 70):
        for line in range(5):
            draw.line((20, top + 8 * line, page.width - 20, top + 8 * line), (0, 0, 0))
        for x in range(40, page.width - 40, 26):
            y = top + 4 * int(random.integers(-1, 9))
            draw.ellipse((x, y, x + 10, y + 8), (0, 0, 0))
            draw.line((x + 10, y + 4, x + 10, y - 24), (0, 0, 0), 2)
    return page


TESTED: Mapping[str, Maker] = {
    "blank": _blank,
    "noise": _noise,
    "gradient": _gradient,
    "screenshot": _screenshot,
    "form": _form,
    "barcode": _barcode,
    "checkerboard": _checkerboard,
    "bar-chart": _bar_chart,
    "line-chart": _line_chart,
    "receipt": _receipt,
}
FITTED: Mapping[str, Maker] = {
    "stripes": _stripes,
    "mosaic": _mosaic,
    "clouds": _clouds,
    "terminal": _terminal,
    "table": _table,
    "dot-code": _dot_code,
    "pie-chart": _pie_chart,
    "letter": _letter,
    "rings": _rings,
    "staves": _staves,
}
