"""Generated pictures in the layouts of Flickr8k, COCO and the ImageNet samples, for tests and smoke runs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from PIL import Image, ImageDraw

from im2sp.train.data.corpora.flickr8k import CAPTION_FILE, PHOTO_FOLDER

COLOURS = {"red": (200, 30, 30), "blue": (30, 60, 200), "green": (30, 150, 60), "yellow": (230, 210, 40)}
SHAPES = {"circle": 40, "square": 4, "triangle": 3}  # corners
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
    """Write twelve photos of Flickr8k (three held out), eight of COCO (two held out) and three ImageNet samples."""
    shown = [(colour, shape) for shape in SHAPES for colour in COLOURS]
    texts = [[template.format(colour=colour, shape=shape) for template in TEMPLATES] for colour, shape in shown]
    names = [f"{colour}_{shape}.jpg" for colour, shape in shown]
    _draw(data / "flickr8k" / PHOTO_FOLDER, names, shown)
    lines = [f"{name}#{k}\t{text}" for name, said in zip(names, texts, strict=True) for k, text in enumerate(said)]
    dev = names[::4]
    files = {
        CAPTION_FILE: lines,
        "Flickr_8k.trainImages.txt": [name for name in names if name not in dev],
        "Flickr_8k.devImages.txt": dev,
    }
    for file, content in files.items():
        (data / "flickr8k" / file).write_text("\n".join(content) + "\n", encoding="utf-8")
    _write_coco(data / "coco", shown[:8], texts[:8])
    samples = [f"n0000000{number}_{label}.jpg" for number, label in enumerate(("tench", "goldfish", "blue_square"))]
    _draw(data / "imagenet_samples", samples, [("blue", "square")] * 3)
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "things.txt").write_text("# held out\nn00000002_blue_square.jpg\tblue square, square\n")
    classes = [*CLASSES, *(f"thing {number}" for number in range(1000 - len(CLASSES)))]
    (lists / "imagenet_classes.txt").write_text("\n".join(classes) + "\n")


def _write_coco(folder: Path, shown: list[tuple[str, str]], texts: list[list[str]]) -> None:
    names = [f"COCO_val2014_{number:012}.jpg" for number in range(1, len(shown) + 1)]
    _draw(folder / "val2014_256", names, shown)
    captions = dict(zip(names, texts, strict=True))
    shapes = {name: shape for name, (_, shape) in zip(names, shown, strict=True)}
    files = {
        "captions.json": {name: captions[name] for name in names[:6]},
        "machine_captions.json": {name: {"vinvl": captions[name][0]} for name in names[:3]},
        "objects.json": {name: [shape] for name, shape in shapes.items()},
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))
    (folder / "dev.txt").write_text("\n".join(names[:2]) + "\n")
    (folder / "object_synonyms.txt").write_text("\n".join(SHAPES) + "\n")
    rows = [f"{n}\t{shapes[name]}\t{text}" for n, name in enumerate(names, 1) for text in captions[name]]
    with gzip.open(folder / "captions_text.tsv.gz", "wt", encoding="utf-8") as table:
        table.write("\n".join(["image_id\tobjects\tcaption", *rows]) + "\n")


def _draw(folder: Path, names: list[str], shown: list[tuple[str, str]]) -> None:
    """Draw a coloured shape on white for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (colour, shape) in zip(names, shown, strict=True):
        image = Image.new("RGB", (SIDE, SIDE), "white")
        ImageDraw.Draw(image).regular_polygon((SIDE // 2, SIDE // 2, SIDE // 4), SHAPES[shape], fill=COLOURS[colour])
        image.save(folder / name, quality=90)
