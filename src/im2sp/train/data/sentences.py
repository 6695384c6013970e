"""Unit tables -> the token sentences that a translator learns from, looked up by photo in a file that is mapped.

Tables are read once, some rows at a time, and never held: their tokens go into one file, one caption behind the other.
In memory are a few numbers for each caption and the ids of the photos. What comes out follows from the tables alone,
so every process of a run, and a run that goes on, sees the same.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from im2sp.files import replace_whole
from im2sp.speech.units import remove_repeats
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.data.unit_table import read_unit_table, unit_table_files

log = logging.getLogger(__name__)

Sentence = Sequence[int] | npt.NDArray[np.int32]  # token ids, BOS and EOS included
SentenceLookup = Mapping[str, Sequence[Sentence]]  # image id -> each caption

INDEX, TOKENS, STARTS, PHOTOS = "index.json", "tokens.bin", "starts.npy", "photos.npy"


class StoredSentences(Mapping[str, Sequence[Sentence]]):
    """Token sentences by image id, in the order of their tables."""

    def __init__(self, folder: Path) -> None:
        """Open what `store_sentences` wrote."""
        index = json.loads((folder / INDEX).read_text())
        self._starts = np.load(folder / STARTS)  # int64 [captions + 1]
        photos = np.load(folder / PHOTOS)  # int32 [captions]
        self._captions = np.argsort(photos, kind="stable")  # those of a photo side by side
        ends = np.cumsum(np.bincount(photos, minlength=len(index["image_ids"])))
        self._rows = {image_id: row for row, image_id in enumerate(index["image_ids"])}
        self._bounds = np.concatenate([[0], ends])
        # Nothing can be mapped of an empty file. A plain array's view: slices of a memmap are slow to make.
        self._tokens = (
            np.asarray(np.memmap(folder / TOKENS, np.int32, "r")) if self._starts[-1] else np.empty(0, np.int32)
        )

    def __getitem__(self, image_id: str) -> list[npt.NDArray[np.int32]]:
        row = self._rows[image_id]
        captions = self._captions[self._bounds[row] : self._bounds[row + 1]]
        return [self._tokens[self._starts[caption] : self._starts[caption + 1]] for caption in captions]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def store_sentences(
    units: Path, split: str, tables: str, subwords: UnitSubwords, longest: int, out: Path
) -> StoredSentences:
    """Write the sentences of a split of unit tables to `out`, unless they are there.

    Captions of more than `longest` tokens are left out (paper: 1024). `index.json` says how many captions and tokens
    each table gave.

    Args:
        units: folder of the tables.
        tables: pattern of their names, without the ending.

    Raises:
        Im2SpError: there is no table, or tables of different encoders are mixed.
    """
    files = unit_table_files(units, tables)
    made_of = {
        "tables": {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files},
        "split": split,
        "subwords": subwords.checksum,
        "longest": longest,
    }
    if not (out / INDEX).is_file() or json.loads((out / INDEX).read_text())["made_of"] != made_of:
        (out / INDEX).unlink(missing_ok=True)
        _write(files, split, subwords, longest, out, made_of)
    return StoredSentences(out)


def _write(
    files: list[Path], split: str, subwords: UnitSubwords, longest: int, out: Path, made_of: dict[str, object]
) -> None:
    starts, photos, rows = array("q", [0]), array("i"), dict[str, int]()
    counts: dict[str, dict[str, int]] = {}
    with replace_whole(out / TOKENS) as temporary, temporary.open("wb") as file:
        for path in files:
            before = len(photos), starts[-1]
            for row in read_unit_table(path, split):
                tokens = subwords.encode(remove_repeats(row.speech_units)[0])
                if len(tokens) <= longest:
                    file.write(np.array(tokens, np.int32).tobytes())
                    starts.append(starts[-1] + len(tokens))
                    photos.append(rows.setdefault(row.image_id, len(rows)))
            counts[path.name] = {"captions": len(photos) - before[0], "tokens": starts[-1] - before[1]}
    for name, values in ((STARTS, np.array(starts, np.int64)), (PHOTOS, np.array(photos, np.int32))):
        with replace_whole(out / name) as temporary, temporary.open("wb") as file:
            np.save(file, values)
    with replace_whole(out / INDEX) as temporary:
        temporary.write_text(json.dumps({"made_of": made_of, "tables": counts, "image_ids": list(rows)}))
    log.info("%s: %d captions, %d tokens, %d photos", out, len(photos), starts[-1], len(rows))
