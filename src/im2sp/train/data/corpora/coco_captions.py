"""COCO's own captions, `annotations/captions_{train,val}{2014,2017}.json` -> captions without recordings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.items import (
    MAX_TEXT,
    SPLITS,
    CorpusItem,
    Problem,
    Report,
    coco_image_id,
    path_inside,
    split_of_photo,
    usable_text,
)
from im2sp.train.data.corpora.lists import json_entries

YEARS = ("2014", "2017")


@dataclass(frozen=True)
class CocoCaptions:
    """A COCO folder: `annotations/` and, unless `photos` says otherwise, the photos in `train2014/` and so on.

    Memory: the file names of one annotation file, 25 MB for the 83,000 photos of train2014.
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
        for number, entry in json_entries(path, "annotations"):
            where = f"{path.name}, annotation {number}"
            values = entry if isinstance(entry, dict) else {}
            text = usable_text(values.get("caption"), MAX_TEXT)
            own_id, image_number = values.get("id"), values.get("image_id")
            if text is None or not _is_id(own_id) or not _is_id(image_number):
                report(Problem("malformed", where, f"{where} lacks a usable 'id', 'image_id' or 'caption'"))
                continue
            image_id = str(image_number)
            if image_id not in names:
                report(Problem("malformed", where, f"{where}: the file lists no photo {image_id}"))
                continue
            split = split_of_photo(image_id, SPLITS[name], self.splits, where, report)
            image = path_inside(self.photos, f"{name}{self.year}/{names[image_id]}")
            if image is None:
                report(Problem("unsafe-path", where, f"{where}: the photo lies outside the corpus"))
            elif split is not None:
                yield CorpusItem(image_id, image, str(own_id), None, text.strip(), "", split)


def _file_names(path: Path, report: Report) -> dict[str, str]:
    """{image id: file name}."""
    names: dict[str, str] = {}
    for number, entry in json_entries(path, "images"):
        where = f"{path.name}, image {number}"
        name = usable_text(entry.get("file_name")) if isinstance(entry, dict) else None
        image_id = coco_image_id(name) if name else None
        if name is None or image_id is None or entry.get("id") != int(image_id):
            report(Problem("malformed", where, f"{where}: 'id' is not the number at the end of 'file_name'"))
        else:
            names[image_id] = name
    return names


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15
