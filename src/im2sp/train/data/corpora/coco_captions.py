"""COCO's own captions, `annotations/captions_{train,val}{2014,2017}.json` -> captions without recordings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.items import (
    SPLITS,
    CorpusItem,
    Name,
    Problem,
    Report,
    Text,
    coco_image_id,
    path_inside,
    split_of_photo,
)
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
class CocoCaptions:
    """A COCO folder: `annotations/` and, unless `photos` says otherwise, the photos in `train2014/` and so on.

    Memory: one annotation file, 70 MB for train2014.
    """

    root: Path
    photos: Path
    year: str = "2014"
    splits: Mapping[str, str] | None = None  # image id -> split, in place of the official ones

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Captions, val before train, in file order; caption ids are COCO's.

        Raises:
            Im2SpError: there is no annotation file, or as `json_entries` does.
        """
        folder = self.root / "annotations"
        files = [(name, folder / f"captions_{name}{self.year}.json") for name in ("val", "train")]
        there = [(name, path) for name, path in files if path.is_file()]
        if not there:
            raise Im2SpError(f"{files[0][1]} is missing: give the folder that holds COCO's annotations folder")
        for name, path in there:
            yield from self._file(name, path, report)

    def _file(self, name: str, path: Path, report: Report) -> Iterator[CorpusItem]:
        names = _file_names(path, report)
        for number, entry in json_entries(path, "annotations", CocoAnnotation):
            where = f"{path.name}, annotation {number}"
            if entry is None:
                report(Problem("malformed", where, f"{where} lacks a usable 'id', 'image_id' or 'caption'"))
                continue
            image_id = str(entry.image_id)
            if image_id not in names:
                report(Problem("malformed", where, f"{where}: the file lists no photo {image_id}"))
                continue
            split = split_of_photo(image_id, SPLITS[name], self.splits, where, report)
            image = path_inside(self.photos, f"{name}{self.year}/{names[image_id]}")
            if image is None:
                report(Problem("unsafe-path", where, f"{where}: the photo lies outside the corpus"))
            elif split is not None:
                yield CorpusItem(image_id, image, str(entry.id), None, entry.caption.strip(), "", split)


def _file_names(path: Path, report: Report) -> dict[str, str]:
    """{image id: file name}."""
    names: dict[str, str] = {}
    for number, entry in json_entries(path, "images", CocoPhoto):
        image_id = coco_image_id(entry.file_name) if entry else None
        if entry is None or image_id is None or entry.id != int(image_id):
            where = f"{path.name}, image {number}"
            report(Problem("malformed", where, f"{where}: 'id' is not the number at the end of 'file_name'"))
        else:
            names[image_id] = entry.file_name
    return names
