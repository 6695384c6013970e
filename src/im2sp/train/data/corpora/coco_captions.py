"""COCO's own captions, `annotations/captions_{train,val}{2014,2017}.json` -> captions without recordings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.items import SPLITS, Corpus, Entry, Name, Problem, Report, Text
from im2sp.train.data.corpora.lists import json_entries

YEARS = ("2014", "2017")


Id = Annotated[int, msgspec.Meta(ge=0, lt=10**15)]


class CocoPhoto(msgspec.Struct):
    """Entry of `images`."""

    id: Id
    file_name: Name


class CocoAnnotation(msgspec.Struct):
    """Entry of `annotations`."""

    id: Id
    image_id: Id
    caption: Text


@dataclass(frozen=True)
class CocoCaptions(Corpus):
    """A COCO folder: `annotations/` and the photos in `train2014/` and so on. Memory: one file, 70 MB for train2014."""

    year: str = "2014"

    def entries(self, report: Report) -> Iterator[Entry]:
        """Captions, val before train, in file order; caption ids are COCO's."""
        files = {name: self.path / "annotations" / f"captions_{name}{self.year}.json" for name in ("val", "train")}
        if not any(path.is_file() for path in files.values()):
            raise Im2SpError(f"{files['val']} is missing: give the folder that holds COCO's annotations folder")
        for name, path in files.items():
            if not path.is_file():
                continue
            names = {photo.id: photo.file_name for _, photo in json_entries(path, "images", CocoPhoto, report)}
            for where, entry in json_entries(path, "annotations", CocoAnnotation, report):
                if entry.image_id in names:
                    photo = f"{name}{self.year}/{names[entry.image_id]}"
                    yield Entry(where, str(entry.image_id), photo, str(entry.id), SPLITS[name], entry.caption)
                else:
                    report(Problem("malformed", where, f"{where}: the file lists no photo {entry.image_id}"))
