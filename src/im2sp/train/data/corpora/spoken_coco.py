"""SpokenCOCO, `SpokenCOCO_{train,val}.json` and `wavs/` -> spoken captions.

Layout: `data: [{image: "train2014/....jpg", captions: [{text, speaker, uttid, wav}]}]`. Copies with one caption a row,
`SpokenCOCO_{train,val,test}_unrolled*.json`, have `caption: {...}` in place of the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.items import (
    MAX_TEXT,
    SPLITS,
    Corpus,
    Entry,
    Name,
    Problem,
    Report,
    coco_image_id,
    usable_text,
)
from im2sp.train.data.corpora.lists import json_entries


class _Caption(msgspec.Struct):
    uttid: Name
    wav: Name
    text: str = ""
    speaker: str = ""


class _Photo(msgspec.Struct):
    image: Name
    captions: list[_Caption] = []
    caption: _Caption | None = None  # in place of a list of one


@dataclass(frozen=True)
class SpokenCoco(Corpus):
    """A SpokenCOCO folder; `photos` holds train2014/ and val2014/. Memory: one of its files."""

    def entries(self, report: Report) -> Iterator[Entry]:
        """Spoken captions, held-out files first, in file order; caption ids are the `uttid`s."""
        found = {name: self._lists(name) for name in ("test", "val", "train")}
        if not any(found.values()):
            raise Im2SpError(f"{self.path / 'SpokenCOCO_train.json'} is missing: give the folder that SpokenCOCO is in")
        for name, paths in found.items():
            for path in paths[:1]:
                for where, entry in json_entries(path, "data", _Photo, report):
                    if (image_id := coco_image_id(entry.image)) is None:
                        report(Problem("malformed", where, f"{where}: {entry.image[:60]!r} is no name of a COCO photo"))
                        continue
                    for one in [entry.caption] if entry.caption else entry.captions:
                        text, speaker = usable_text(one.text, MAX_TEXT), usable_text(one.speaker) or ""
                        yield Entry(where, image_id, entry.image, one.uttid, SPLITS[name], text, one.wav, speaker)

    def _lists(self, name: str) -> list[Path]:
        """The official file of a split, then the unrolled ones, the shortest name first."""
        unrolled = sorted(self.path.glob(f"SpokenCOCO_{name}_unrolled*.json"), key=lambda path: len(path.name))
        return [path for path in (self.path / f"SpokenCOCO_{name}.json", *unrolled) if path.is_file()]
