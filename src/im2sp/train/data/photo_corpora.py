"""Folders of Flickr8k, COCO and ImageNet samples -> photos, their captions and objects; what is held out."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora import CorpusOptions, read_corpus
from im2sp.train.data.corpora.flickr8k import photo_folder
from im2sp.train.data.corpora.items import ignore
from im2sp.train.data.words import singular

Captions = dict[str, list[str]]  # photo -> what was written about it

_KINDS = (  # ranges of WordNet ids of ImageNet classes, as people call what they show
    ("n01514668", "n01518878", "bird"), ("n01530575", "n01622779", "bird"), ("n01728572", "n01756291", "snake"),
    ("n01773157", "n01775062", "spider"), ("n01795545", "n01855672", "bird"), ("n02002556", "n02058221", "bird"),
    ("n02085620", "n02116738", "dog"), ("n02123045", "n02124075", "cat"), ("n02132136", "n02134418", "bear"),
    ("n02276258", "n02281787", "butterfly"), ("n02480495", "n02500267", "monkey"),
    ("n12985857", "n13054560", "mushroom"),
)  # fmt: skip
_KIND_CLASSES = (  # places of such animals, and of mushrooms, among the 1,000 classes of ImageNet
    (7, 24), (52, 68), (72, 77), (80, 100), (127, 146), (151, 275), (281, 285), (294, 297), (321, 326), (365, 382),
    (991, 997),
)  # fmt: skip
KIND_CLASSES = frozenset(place for first, last in _KIND_CLASSES for place in range(first, last + 1))
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class TextCaption:
    """A caption of a COCO photo that is not at hand."""

    objects: frozenset[str]  # in that photo
    text: str


@dataclass(frozen=True)
class PhotoCorpora:
    """Photos and what is known of them. A photo is named by its file name.

    Attributes:
        photos: photo -> file.
        captions: corpus ("flickr8k", "coco", "coco_machine") -> captions to train with.
        dev: "flickr8k" and "coco" -> captions of held-out photos.
        objects: COCO objects of photos, held-out ones included.
        text: captions of photos that are not at hand, without those of held-out photos.
        samples: ImageNet samples to train with -> words of their class.
        things: held-out ImageNet samples -> phrases that name what they show.
        class_names: of the outputs of the classifier, in order.
    """

    photos: dict[str, Path]
    captions: dict[str, Captions]
    dev: dict[str, Captions]
    objects: dict[str, list[str]]
    text: list[TextCaption]
    samples: dict[str, list[str]] = field(default_factory=dict)
    things: dict[str, list[str]] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)

    @property
    def held_out(self) -> set[str]:
        """Photos that never train."""
        return {photo for part in self.dev.values() for photo in part} | set(self.things)

    @property
    def train_photos(self) -> list[str]:
        """All other photos, sorted."""
        return sorted(self.photos.keys() - self.held_out)


def caption_words(text: str) -> list[str]:
    """Lower-case words of a caption, without punctuation; a hyphen separates words."""
    return _WORD.findall(text.lower().replace("'", "").replace("-", " "))


def names_thing(caption: str, phrases: Iterable[str]) -> bool:
    """Whether a caption holds one of the phrases, in the singular or the plural."""
    said = _in_singular(caption)
    return any(f" {_in_singular(phrase).strip()} " in said for phrase in phrases)


def _in_singular(text: str) -> str:
    return f" {' '.join(singular(word) for word in caption_words(text))} "


def class_phrases(corpora: PhotoCorpora) -> dict[str, list[str]]:
    """ImageNet sample -> phrases that name its class: the last word of its name, and the kind of animal."""
    found = {}
    for photo, words in corpora.samples.items():
        kinds = [kind for first, last, kind in _KINDS if first <= photo[:9] <= last]
        found[photo] = words[-1:] + kinds
    return found


def read_photo_corpora(data: Path, lists: Path) -> PhotoCorpora:
    """Read the corpora.

    Args:
        data: folder with `flickr8k`, `coco`, `coco_unlabelled` and `imagenet_samples`; the last two may be missing.
        lists: folder with `things.txt` and `imagenet_classes.txt`.

    Raises:
        Im2SpError: a file is missing or cannot be parsed.
    """
    try:
        flickr8k = _flickr8k(data / "flickr8k")
        coco = data / "coco"
        dev = (coco / "dev.txt").read_text(encoding="utf-8").split()
        captions: Captions = json.loads((coco / "captions.json").read_text(encoding="utf-8"))
        machine = json.loads((coco / "machine_captions.json").read_text(encoding="utf-8"))
        objects = json.loads((coco / "objects.json").read_text(encoding="utf-8"))
        text = _text_captions(coco / "captions_text.tsv.gz", {_image_number(photo) for photo in dev})
        things = read_things(lists / "things.txt")
        class_names = _lines(lists / "imagenet_classes.txt")
    except (OSError, ValueError, KeyError) as error:
        raise Im2SpError(f"the corpora in {data} and lists in {lists} cannot be read: {error}") from error
    photos = _photos(data)
    held_out = set(dev)
    return PhotoCorpora(
        photos=photos,
        captions={
            "flickr8k": flickr8k["train"],
            "coco": {photo: said for photo, said in captions.items() if photo not in held_out},
            "coco_machine": {photo: [by["vinvl"]] for photo, by in machine.items() if photo not in held_out},
        },
        dev={"flickr8k": flickr8k["dev"], "coco": {photo: captions[photo] for photo in dev}},
        objects=objects,
        text=text,
        samples={photo: _class_words(photo) for photo in _samples(photos) if photo not in things},
        things={photo: phrases for photo, phrases in things.items() if photo in photos},
        class_names=class_names,
    )


def _photos(data: Path) -> dict[str, Path]:
    others = ("coco/val2014_256", "coco_unlabelled", "imagenet_samples")
    folders = (photo_folder(data / "flickr8k"), *(data / name for name in others))
    return {path.name: path for folder in folders for path in sorted(folder.glob("*.jpg"))}


def _flickr8k(folder: Path) -> dict[str, Captions]:
    parts: dict[str, Captions] = {"train": {}, "dev": {}}
    for item in read_corpus(folder, CorpusOptions("flickr8k"), ignore):
        if item.split in parts and item.text:
            parts[item.split].setdefault(item.image.name, []).append(item.text)
    return parts


def _text_captions(path: Path, but_of: set[int]) -> list[TextCaption]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [
            TextCaption(frozenset(filter(None, row["objects"].split(","))), row["caption"])
            for row in rows
            if int(row["image_id"]) not in but_of
        ]


def _image_number(photo: str) -> int:
    return int(Path(photo).stem.rsplit("_", 1)[1])


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def read_things(path: Path) -> dict[str, list[str]]:
    """Read photos of one thing and the phrases that name it, separated by commas, after a tab.

    Raises OSError and ValueError.
    """
    found = {}
    for line in _lines(path):
        photo, phrases = line.split("\t")
        found[photo] = [phrase.strip() for phrase in phrases.split(",")]
    return found


def _samples(photos: Mapping[str, Path]) -> list[str]:
    return [photo for photo in photos if re.match(r"n\d{8}_", photo)]


def _class_words(photo: str) -> list[str]:
    """Words of the class of a sample, `nXXXXXXXX_name.jpg`."""
    return caption_words(Path(photo).stem.split("_", 1)[1].replace("_", " "))
