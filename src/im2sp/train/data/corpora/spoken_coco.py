"""SpokenCOCO, `SpokenCOCO_{train,val}.json` and `wavs/` -> spoken captions.

Layout: `data: [{image: "train2014/....jpg", captions: [{text, speaker, uttid, wav}]}]`. Copies with one caption a row,
`SpokenCOCO_{train,val,test}_unrolled*.json`, have `caption: {...}` in place of the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class SpokenCoco:
    """A SpokenCOCO folder. One photo's captions are in memory at a time."""

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
            for number, entry in json_entries(path, "data"):
                yield from self._photo(entry, SPLITS[name], f"{path.name}, entry {number}", report)

    def _file_of(self, name: str) -> Path | None:
        """The official file of a split, else the unrolled one with the shortest name."""
        unrolled = sorted(self.root.glob(f"SpokenCOCO_{name}_unrolled*.json"), key=lambda path: len(path.name))
        return next((path for path in (self.root / f"SpokenCOCO_{name}.json", *unrolled) if path.is_file()), None)

    def _photo(self, entry: Any, own_split: str, where: str, report: Report) -> Iterator[CorpusItem]:
        values = entry if isinstance(entry, dict) else {}
        name = usable_text(values.get("image"))
        captions = [values["caption"]] if "caption" in values else values.get("captions")
        image_id = coco_image_id(name) if name else None
        if name is None or image_id is None or not isinstance(captions, list):
            report(Problem("malformed", where, f"{where} lacks a COCO 'image' or a list of 'captions'"))
            return
        image = path_inside(self.photos, name)
        if image is None:
            report(Problem("unsafe-path", where, f"{where}: the photo lies outside the corpus"))
            return
        split = split_of_photo(image_id, own_split, self.splits, where, report)
        if split is None:
            return
        for k, caption in enumerate(captions):
            place = f"{where}, caption {k}"
            fields = caption if isinstance(caption, dict) else {}
            wav, uttid = usable_text(fields.get("wav")), usable_text(fields.get("uttid"))
            if wav is None or uttid is None:
                report(Problem("malformed", place, f"{place} lacks a usable 'wav' or 'uttid'"))
                continue
            recording = path_inside(self.root, wav)
            if recording is None:
                report(Problem("unsafe-path", place, f"{place}: the recording lies outside the corpus"))
                continue
            text, speaker = usable_text(fields.get("text"), MAX_TEXT), usable_text(fields.get("speaker"))
            if text is None:
                report(Problem("no-text", place, f"{place} has no usable 'text'", left_out=False))
            yield CorpusItem(
                image_id, image, uttid, recording, text.strip() if text else None, (speaker or "").strip(), split
            )
