"""COCO and what came of it -> captions: COCO's own, Karpathy's splits, SpokenCOCO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.items import MAX_TEXT, SPLITS, Entry, Name, Problem, Report, Text, usable_text
from im2sp.train.data.corpora.items import coco_image_id as number_of
from im2sp.train.data.corpora.lists import json_entries

_HELD_OUT = ("train", "restval", "dev", "test")  # the later, the more it is held out
_Id = Annotated[int, msgspec.Meta(ge=0, lt=10**15)]


class _CocoPhoto(msgspec.Struct):
    id: _Id
    file_name: Name


class CocoCaption(msgspec.Struct):
    """Entry of `annotations` in a file of COCO's captions."""

    id: _Id
    image_id: _Id
    caption: Text


def read_coco_captions(path: Path, report: Report) -> Iterator[tuple[str, CocoCaption, str]]:
    """(where, caption, file name of its photo) of `captions_val2014.json` and the like. Memory: 70 MB for train2014."""
    names = {photo.id: photo.file_name for _, photo in json_entries(path, "images", _CocoPhoto, report)}
    for where, caption in json_entries(path, "annotations", CocoCaption, report):
        if caption.image_id in names:
            yield where, caption, names[caption.image_id]
        else:
            report(Problem("malformed", where, f"{where}: the file lists no photo {caption.image_id}"))


def coco_captions(path: Path, report: Report, year: str) -> Iterator[Entry]:
    """Captions of `annotations/captions_{val,train}<year>.json`, val before train, in file order; ids are COCO's."""
    files = {name: path / "annotations" / f"captions_{name}{year}.json" for name in ("val", "train")}
    if not any(file.is_file() for file in files.values()):
        raise Im2SpError(f"{files['val']} is missing: give the folder that holds COCO's annotations folder")
    for name, file in files.items():
        for where, entry, photo in read_coco_captions(file, report) if file.is_file() else ():
            photo = f"{name}{year}/{photo}"
            yield Entry(where, str(entry.image_id), photo, str(entry.id), SPLITS[name], entry.caption)


class _Sentence(msgspec.Struct):
    raw: Text


class _KarpathyPhoto(msgspec.Struct):
    filename: Name
    split: Literal["train", "restval", "val", "test"]
    sentences: list[_Sentence] = []
    filepath: str = ""

    @property
    def image_id(self) -> str:
        """COCO's number, or the file name without suffix for other corpora."""
        number = number_of(self.filename) if self.filename.startswith("COCO_") else None
        return number or PurePosixPath(self.filename).stem


def karpathy(path: Path, report: Report) -> Iterator[Entry]:
    """Captions of `dataset_coco.json` or `dataset_flickr8k.json` in file order; caption ids are `<image_id>_<k>`.

    Layout: `images: [{filepath?, filename, split, sentences: [{raw, tokens}]}]`. Memory: the file.
    """
    for where, photo in json_entries(path, "images", _KarpathyPhoto, report):
        name = str(PurePosixPath(photo.filepath, photo.filename))
        for k, sentence in enumerate(photo.sentences):
            yield Entry(where, photo.image_id, name, f"{photo.image_id}_{k}", SPLITS[photo.split], sentence.raw)


def karpathy_splits(path: Path, report: Report) -> dict[str, str]:
    """{image id: split}, for corpora that shall be split like this. A photo in two splits is held out."""
    found: dict[str, str] = {}
    for _, photo in json_entries(path, "images", _KarpathyPhoto, report):
        split = SPLITS[photo.split]
        found[photo.image_id] = max(found.get(photo.image_id, split), split, key=_HELD_OUT.index)
    return found


class _SpokenCaption(msgspec.Struct):
    uttid: Name
    wav: Name
    text: str = ""
    speaker: str = ""


class _SpokenPhoto(msgspec.Struct):
    image: Name
    captions: list[_SpokenCaption] = []
    caption: _SpokenCaption | None = None  # in place of a list of one


def spoken_coco(path: Path, report: Report) -> Iterator[Entry]:
    """Captions of `SpokenCOCO_{train,val}.json`, held-out files first, in file order; caption ids are the `uttid`s.

    Layout: `data: [{image: "train2014/....jpg", captions: [{text, speaker, uttid, wav}]}]`. Copies with one caption a
    row, `SpokenCOCO_{train,val,test}_unrolled*.json`, have `caption: {...}` in place of the list. Memory: one file.
    """
    found = {name: _spoken_list(path, name) for name in ("test", "val", "train")}
    if not any(found.values()):
        raise Im2SpError(f"{path / 'SpokenCOCO_train.json'} is missing: give the folder that SpokenCOCO is in")
    for name, file in found.items():
        for where, entry in json_entries(file, "data", _SpokenPhoto, report) if file else ():
            if (image_id := number_of(entry.image)) is None:
                report(Problem("malformed", where, f"{where}: {entry.image[:60]!r} is no name of a COCO photo"))
                continue
            for one in [entry.caption] if entry.caption else entry.captions:
                text, speaker = usable_text(one.text, MAX_TEXT), usable_text(one.speaker) or ""
                yield Entry(where, image_id, entry.image, one.uttid, SPLITS[name], text, one.wav, speaker)


def _spoken_list(folder: Path, name: str) -> Path | None:
    """The official file of a split, or the unrolled one with the shortest name."""
    unrolled = sorted(folder.glob(f"SpokenCOCO_{name}_unrolled*.json"), key=lambda path: len(path.name))
    return next((path for path in (folder / f"SpokenCOCO_{name}.json", *unrolled) if path.is_file()), None)
