"""Generated pictures in the layouts of Flickr8k, COCO and the ImageNet samples, for tests and smoke runs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from im2sp.train.data.tiny_flickr8k import COLOURS, SHAPES, TEMPLATES, draw_shape, write_tiny_flickr8k

CLASSES = ("tench", "goldfish", "red circle", "blue square")  # the last names of the classes are "thing <number>"


def write_tiny_photo_corpora(data: Path, lists: Path) -> None:
    """Write eight COCO photos, of which two are held out and two have no captions, and three ImageNet samples."""
    write_tiny_flickr8k(data / "flickr8k")
    names = [f"COCO_val2014_{number:012}.jpg" for number in range(1, 9)]
    shown = [(colour, shape) for shape in SHAPES for colour in COLOURS][: len(names)]
    (data / "coco" / "val2014_256").mkdir(parents=True, exist_ok=True)
    for name, (colour, shape) in zip(names, shown, strict=True):
        draw_shape(shape, COLOURS[colour]).save(data / "coco" / "val2014_256" / name)
    captions = {
        name: [template.format(colour=colour, shape=shape) for template in TEMPLATES]
        for name, (colour, shape) in zip(names, shown, strict=True)
    }
    _write_coco(data / "coco", names, captions, dict(zip(names, (shape for _, shape in shown), strict=True)))
    (data / "imagenet_samples").mkdir(exist_ok=True)
    for number, label in enumerate(("tench", "goldfish", "blue_square")):
        draw_shape("square", COLOURS["blue"]).save(data / "imagenet_samples" / f"n0000000{number}_{label}.jpg")
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
