"""Karpathy's splits, `dataset_coco.json` or `dataset_flickr8k.json` -> captions and who is in which split.

Layout: `images: [{filepath?, filename, cocoid?, split, sentences: [{raw, tokens}]}]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from im2sp.train.data.corpora.items import (
    SPLITS,
    CorpusItem,
    Name,
    Problem,
    Report,
    Text,
    coco_image_id,
    path_inside,
)
from im2sp.train.data.corpora.lists import json_entries, json_value


class _Photo(msgspec.Struct):
    filename: Name
    split: str
    sentences: list[msgspec.Raw] = []
    filepath: str = ""
    cocoid: int | None = None


class _Sentence(msgspec.Struct):
    raw: Text


@dataclass(frozen=True)
class Karpathy:
    """A Karpathy file as a corpus without recordings. Memory: the file."""

    path: Path
    photos: Path  # the folder that `filepath`/`filename` are in
    restval_as_train: bool = False

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Captions in file order; caption ids are `<image_id>_<k>`. Raises Im2SpError as `json_entries` does."""
        for where, photo, image_id, split in self._photos(report):
            image = path_inside(self.photos, f"{photo.filepath}/{photo.filename}" if photo.filepath else photo.filename)
            if image is None:
                report(Problem("unsafe-path", where, f"{where}: the photo lies outside the corpus"))
                continue
            if not photo.sentences:
                report(Problem("malformed", where, f"{where} has no sentences"))
            for k, part in enumerate(photo.sentences):
                if (sentence := json_value(part, _Sentence)) is None:
                    report(Problem("malformed", where, f"{where}: sentence {k} has no usable 'raw'"))
                else:
                    yield CorpusItem(image_id, image, f"{image_id}_{k}", None, sentence.raw.strip(), "", split)

    def splits(self, report: Report) -> dict[str, str]:
        """{image id: split}, for corpora that shall be split like this. A photo in two splits is held out."""
        found: dict[str, str] = {}
        for where, _, image_id, split in self._photos(report):
            known = found.setdefault(image_id, split)
            if known != split:
                report(Problem("two-splits", where, f"{where}: photo {image_id} is in {known} and {split}"))
                found[image_id] = max(known, split, key=_HELD_OUT.index)
        return found

    def _photos(self, report: Report) -> Iterator[tuple[str, _Photo, str, str]]:
        """(where, photo, image id, split) of each photo that has them."""
        for number, photo in json_entries(self.path, "images", _Photo):
            where = f"{self.path.name}, image {number}"
            if photo is None:
                report(Problem("malformed", where, f"{where} has no usable 'filename', 'split' or list of 'sentences'"))
            elif photo.split not in SPLITS:
                report(Problem("no-split", where, f"{where} has the unknown split {photo.split[:40]!r}"))
            elif (image_id := _image_id(photo)) is None:
                report(Problem("malformed", where, f"{where}: 'cocoid' is not the number at the end of 'filename'"))
            else:
                train = photo.split == "restval" and self.restval_as_train
                yield where, photo, image_id, "train" if train else SPLITS[photo.split]


_HELD_OUT = ("train", "restval", "dev", "test")  # the later, the more it is held out


def _image_id(photo: _Photo) -> str | None:
    """COCO's number, or the file name without suffix for other corpora; None when the entry contradicts itself."""
    number = coco_image_id(photo.filename)
    if photo.cocoid is None:
        return number if number and photo.filename.startswith("COCO_") else PurePosixPath(photo.filename).stem
    return number if number and int(number) == photo.cocoid else None
