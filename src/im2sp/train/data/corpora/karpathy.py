"""Karpathy's splits, `dataset_coco.json` or `dataset_flickr8k.json` -> captions and who is in which split.

Layout: `images: [{filepath?, filename, cocoid?, split, sentences: [{raw, tokens}]}]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from im2sp.train.data.corpora.items import (
    MAX_TEXT,
    SPLITS,
    CorpusItem,
    Problem,
    Report,
    coco_image_id,
    path_inside,
    usable_text,
)
from im2sp.train.data.corpora.lists import json_entries


@dataclass(frozen=True)
class Karpathy:
    """A Karpathy file as a corpus without recordings. One photo's captions are in memory at a time."""

    path: Path
    photos: Path  # the folder that `filepath`/`filename` are in
    restval_as_train: bool = False

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Captions in file order; caption ids are `<image_id>_<k>`. Raises Im2SpError as `json_entries` does."""
        for where, entry, image_id, split in self._photos(report):
            image = path_inside(self.photos, _file_name(entry))
            sentences = entry.get("sentences")
            if image is None:
                report(Problem("unsafe-path", where, f"{where}: the photo lies outside the corpus"))
                continue
            if not isinstance(sentences, list):
                report(Problem("malformed", where, f"{where} has no list of sentences"))
                continue
            for k, sentence in enumerate(sentences):
                raw = usable_text(sentence.get("raw"), MAX_TEXT) if isinstance(sentence, dict) else None
                if raw is None:
                    report(Problem("malformed", where, f"{where}: sentence {k} has no usable 'raw'"))
                else:
                    yield CorpusItem(image_id, image, f"{image_id}_{k}", None, raw.strip(), "", split)

    def splits(self, report: Report) -> dict[str, str]:
        """{image id: split}, for corpora that shall be split like this. A photo in two splits is held out."""
        found: dict[str, str] = {}
        for where, _, image_id, split in self._photos(report):
            known = found.setdefault(image_id, split)
            if known != split:
                report(Problem("two-splits", where, f"{where}: photo {image_id} is in {known} and {split}"))
                found[image_id] = max(known, split, key=_HELD_OUT.index)
        return found

    def _photos(self, report: Report) -> Iterator[tuple[str, dict[str, Any], str, str]]:
        """(where, entry, image id, split) of each photo that has them."""
        for number, entry in json_entries(self.path, "images"):
            where = f"{self.path.name}, image {number}"
            name = usable_text(entry.get("filename")) if isinstance(entry, dict) else None
            if name is None:
                report(Problem("malformed", where, f"{where} has no usable 'filename'"))
                continue
            split = entry.get("split")
            if not isinstance(split, str) or split not in SPLITS:
                report(Problem("no-split", where, f"{where} has the unknown split {str(split)[:40]!r}"))
                continue
            image_id = _image_id(name, entry.get("cocoid"))
            if image_id is None:
                report(Problem("malformed", where, f"{where}: 'cocoid' is not the number at the end of {name}"))
                continue
            yield where, entry, image_id, "train" if split == "restval" and self.restval_as_train else SPLITS[split]


_HELD_OUT = ("train", "restval", "dev", "test")  # the later, the more it is held out


def _image_id(name: str, coco_id: object) -> str | None:
    """COCO's number, or the file name without suffix for other corpora; None when the entry contradicts itself."""
    number = coco_image_id(name)
    if coco_id is None:
        return number if number and name.startswith("COCO_") else PurePosixPath(name).stem
    if number is None or isinstance(coco_id, bool) or not isinstance(coco_id, int):
        return None
    return number if int(number) == coco_id else None


def _file_name(entry: dict[str, Any]) -> str:
    folder = usable_text(entry.get("filepath"))
    return f"{folder}/{entry['filename']}" if folder else str(entry["filename"])
