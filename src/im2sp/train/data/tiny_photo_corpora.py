"""Generated pictures in the layouts of Flickr8k, COCO and the ImageNet samples, for tests and smoke runs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from PIL import Image, ImageDraw

from im2sp.train.data.corpora.flickr8k import CAPTION_FILE, PHOTO_FOLDER

COLOURS = {"red": (200, 30, 30), "blue": (30, 60, 200), "green": (30, 150, 60), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square", "triangle")
SIDE = 224  # pixels
TEMPLATES = (
    "A {colour} {shape} on a white wall .",
    "There is a {colour} {shape} .",
    "The {shape} is {colour} .",
    "One big {colour} {shape} in the middle .",
    "Somebody painted a {colour} {shape} .",
)
CLASSES = ("tench", "goldfish", "red circle", "blue square")  # the last names of the classes are "thing <number>"


def write_tiny_photo_corpora(data: Path, lists: Path) -> None:
    """Write eight COCO photos, of which two are held out and two have no captions, and three ImageNet samples."""
    _write_flickr8k(data / "flickr8k")
    names = [f"COCO_val2014_{number:012}.jpg" for number in range(1, 9)]
    shown = [(colour, shape) for shape in SHAPES for colour in COLOURS][: len(names)]
    (data / "coco" / "val2014_256").mkdir(parents=True, exist_ok=True)
    for name, (colour, shape) in zip(names, shown, strict=True):
        _draw_shape(shape, COLOURS[colour]).save(data / "coco" / "val2014_256" / name)
    captions = {
        name: [template.format(colour=colour, shape=shape) for template in TEMPLATES]
        for name, (colour, shape) in zip(names, shown, strict=True)
    }
    _write_coco(data / "coco", names, captions, dict(zip(names, (shape for _, shape in shown), strict=True)))
    (data / "imagenet_samples").mkdir(exist_ok=True)
    for number, label in enumerate(("tench", "goldfish", "blue_square")):
        _draw_shape("square", COLOURS["blue"]).save(data / "imagenet_samples" / f"n0000000{number}_{label}.jpg")
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "things.txt").write_text("# held out\nn00000002_blue_square.jpg\tblue square, square\n")
    classes = [*CLASSES, *(f"thing {number}" for number in range(1000 - len(CLASSES)))]
    (lists / "imagenet_classes.txt").write_text("\n".join(classes) + "\n")


def _write_coco(folder: Path, names: list[str], captions: dict[str, list[str]], shapes: dict[str, str]) -> None:
    files = {
        "captions.json": {name: captions[name] for name in names[:6]},
        "machine_captions.json": {name: {"vinvl": captions[name][0]} for name in names[:3]},
        "objects.json": {name: [shapes[name]] for name in names},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "dev.txt").write_text("\n".join(names[:2]) + "\n")
    (folder / "object_synonyms.txt").write_text("\n".join(SHAPES) + "\n")
    rows = ["image_id\tobjects\tcaption"] + [
        f"{number}\t{shapes[name]}\t{text}" for number, name in enumerate(names, 1) for text in captions[name]
    ]
    with gzip.open(folder / "captions_text.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(rows) + "\n")


def _write_flickr8k(root: Path) -> None:
    """Write nine train and three dev pictures of coloured shapes with five captions each."""
    folder = root / PHOTO_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    names, lines = [], []
    for shape in SHAPES:
        for colour, value in COLOURS.items():
            name = f"{colour}_{shape}.jpg"
            names.append(name)
            _draw_shape(shape, value).save(folder / name, quality=90)
            lines += [f"{name}#{k}\t{t.format(colour=colour, shape=shape)}" for k, t in enumerate(TEMPLATES)]
    (root / CAPTION_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    dev = names[::4]
    for split, part in (("train", [name for name in names if name not in dev]), ("dev", dev)):
        (root / f"Flickr_8k.{split}Images.txt").write_text("\n".join(part) + "\n", encoding="utf-8")


def _draw_shape(shape: str, colour: tuple[int, int, int]) -> Image.Image:
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
