"""SpokenCOCO, `SpokenCOCO_{train,val}.json` and `wavs/` -> spoken captions.

Layout: `data: [{image: "train2014/....jpg", captions: [{text, speaker, uttid, wav}]}]`. Copies with one caption a row,
`SpokenCOCO_{train,val,test}_unrolled*.json`, have `caption: {...}` in place of the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.items import (
    MAX_TEXT,
    SPLITS,
    CorpusItem,
    Name,
    Problem,
    Report,
    coco_image_id,
    path_inside,
    split_of_photo,
    usable_text,
)
from im2sp.train.data.corpora.lists import json_entries, json_value


class _Photo(msgspec.Struct):
    image: Name
    captions: list[msgspec.Raw] | None = None
    caption: msgspec.Raw = msgspec.Raw()  # in place of a list of one

    @property
    def all_captions(self) -> list[msgspec.Raw] | None:
        return [self.caption] if bytes(self.caption) else self.captions


class _Caption(msgspec.Struct):
    uttid: Name
    wav: Name
    text: str = ""
    speaker: str = ""


@dataclass(frozen=True)
class SpokenCoco:
    """A SpokenCOCO folder. Memory: one of its files."""

    root: Path
    photos: Path  # the folder that holds train2014/ and val2014/
    splits: Mapping[str, str] | None = None  # image id -> split, in place of the official ones

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Spoken captions, held-out files first, in file order; caption ids are the `uttid`s.

        Raises:
            Im2SpError: there is none of the files, or as `json_entries` does.
        """
        there = [(name, path) for name in ("test", "val", "train") if (path := self._file_of(name)) is not None]
        if not there:
            raise Im2SpError(f"{self.root / 'SpokenCOCO_train.json'} is missing: give the folder that SpokenCOCO is in")
        for name, path in there:
            for number, entry in json_entries(path, "data", _Photo):
                yield from self._captions(entry, SPLITS[name], f"{path.name}, entry {number}", report)

    def _file_of(self, name: str) -> Path | None:
        """The official file of a split, else the unrolled one with the shortest name."""
        unrolled = sorted(self.root.glob(f"SpokenCOCO_{name}_unrolled*.json"), key=lambda path: len(path.name))
        return next((path for path in (self.root / f"SpokenCOCO_{name}.json", *unrolled) if path.is_file()), None)

    def _captions(self, entry: _Photo | None, own_split: str, where: str, report: Report) -> Iterator[CorpusItem]:
        image_id = coco_image_id(entry.image) if entry else None
        captions = entry.all_captions if entry else None
        if entry is None or image_id is None or captions is None:
            report(Problem("malformed", where, f"{where} lacks a COCO 'image' or a list of 'captions'"))
            return
        image = path_inside(self.photos, entry.image)
        if image is None:
            report(Problem("unsafe-path", where, f"{where}: the photo lies outside the corpus"))
            return
        split = split_of_photo(image_id, own_split, self.splits, where, report)
        if split is None:
            return
        for k, part in enumerate(captions):
            place, caption = f"{where}, caption {k}", json_value(part, _Caption)
            if caption is None:
                report(Problem("malformed", place, f"{place} lacks a usable 'wav' or 'uttid'"))
            elif (recording := path_inside(self.root, caption.wav)) is None:
                report(Problem("unsafe-path", place, f"{place}: the recording lies outside the corpus"))
            else:
                if (text := usable_text(caption.text, MAX_TEXT)) is None:
                    report(Problem("no-text", place, f"{place} has no usable 'text'", left_out=False))
                speaker = (usable_text(caption.speaker) or "").strip()
                yield CorpusItem(image_id, image, caption.uttid, recording, text and text.strip(), speaker, split)
