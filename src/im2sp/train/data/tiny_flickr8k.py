"""Generated photos with captions in Flickr8k's layout, for tests without a data set."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from im2sp.train.data.corpora.flickr8k import CAPTION_FILE, PHOTO_FOLDER

COLOURS = {"red": (200, 30, 30), "blue": (30, 60, 200), "green": (30, 150, 60), "yellow": (230, 210, 40)}
UNLABELLED = "Unlabelled"  # folder of pictures without captions
SHAPES = ("circle", "square", "triangle")
SIDE = 224  # pixels
TEMPLATES = (
    "A {colour} {shape} on a white wall .",
    "There is a {colour} {shape} .",
    "The {shape} is {colour} .",
    "One big {colour} {shape} in the middle .",
    "Somebody painted a {colour} {shape} .",
)


def write_tiny_flickr8k(root: Path) -> None:
    """Write nine train and three dev pictures of coloured shapes with five captions each, and three without; the same
    bytes every time.
    """
    folder = root / PHOTO_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    names, lines = [], []
    for shape in SHAPES:
        for colour, value in COLOURS.items():
            name = f"{colour}_{shape}.jpg"
            names.append(name)
            draw_shape(shape, value).save(folder / name, quality=90)
            lines += [f"{name}#{k}\t{t.format(colour=colour, shape=shape)}" for k, t in enumerate(TEMPLATES)]
    (root / UNLABELLED).mkdir(exist_ok=True)
    for shape in SHAPES:
        draw_shape(shape, (120, 40, 140)).save(root / UNLABELLED / f"purple_{shape}.jpg", quality=90)
    (root / CAPTION_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    dev = names[::4]
    for split, part in (("train", [name for name in names if name not in dev]), ("dev", dev)):
        (root / f"Flickr_8k.{split}Images.txt").write_text("\n".join(part) + "\n", encoding="utf-8")


def draw_shape(shape: str, colour: tuple[int, int, int]) -> Image.Image:
    """Draw a shape of this colour on white."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen, low, high = ImageDraw.Draw(image), SIDE // 4, 3 * SIDE // 4
    if shape == "circle":
        pen.ellipse((low, low, high, high), fill=colour)
    elif shape == "square":
        pen.rectangle((low, low, high, high), fill=colour)
    else:
        pen.polygon([(SIDE // 2, low), (low, high), (high, high)], fill=colour)
    return image
