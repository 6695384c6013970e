"""Karpathy's splits, `dataset_coco.json` or `dataset_flickr8k.json` -> captions and who is in which split.

Layout: `images: [{filepath?, filename, split, sentences: [{raw, tokens}]}]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from im2sp.train.data.corpora.items import SPLITS, Corpus, Entry, Name, Report, Text, coco_image_id
from im2sp.train.data.corpora.lists import json_entries

_HELD_OUT = ("train", "restval", "dev", "test")  # the later, the more it is held out


class _Sentence(msgspec.Struct):
    raw: Text


class _Photo(msgspec.Struct):
    filename: Name
    split: Literal["train", "restval", "val", "test"]
    sentences: list[_Sentence] = []
    filepath: str = ""

    @property
    def image_id(self) -> str:
        """COCO's number, or the file name without suffix for other corpora."""
        number = coco_image_id(self.filename) if self.filename.startswith("COCO_") else None
        return number or PurePosixPath(self.filename).stem


@dataclass(frozen=True)
class Karpathy(Corpus):
    """A Karpathy file as a corpus without recordings. Memory: the file."""

    def entries(self, report: Report) -> Iterator[Entry]:
        """Captions in file order; caption ids are `<image_id>_<k>`."""
        for where, photo in json_entries(self.path, "images", _Photo, report):
            path = str(PurePosixPath(photo.filepath, photo.filename))
            for k, sentence in enumerate(photo.sentences):
                caption_id = f"{photo.image_id}_{k}"
                yield Entry(where, photo.image_id, path, caption_id, SPLITS[photo.split], sentence.raw)


def karpathy_splits(path: Path, report: Report) -> dict[str, str]:
    """{image id: split}, for corpora that shall be split like this. A photo in two splits is held out."""
    found: dict[str, str] = {}
    for _, photo in json_entries(path, "images", _Photo, report):
        split = SPLITS[photo.split]
        found[photo.image_id] = max(found.get(photo.image_id, split), split, key=_HELD_OUT.index)
    return found
