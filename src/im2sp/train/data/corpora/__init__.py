"""Corpora in their official layouts, and own recordings -> one stream of captions with their photos and recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.coco_captions import CocoCaptions
from im2sp.train.data.corpora.flickr8k import Flickr8k, Flickr8kAudio
from im2sp.train.data.corpora.items import Corpus, CorpusItem, Report
from im2sp.train.data.corpora.karpathy import Karpathy, karpathy_splits
from im2sp.train.data.corpora.spoken_coco import SpokenCoco
from im2sp.train.data.corpora.table import Folder, Table

Layout = Literal[
    "folder", "table", "flickr8k", "flickr8k-audio", "spoken-coco", "coco-captions-2014", "coco-captions-2017",
    "karpathy",
]  # fmt: skip
_FILES = ("table", "karpathy")  # layouts that are one file
_READERS: dict[Layout, Callable[..., Corpus]] = {
    "folder": Folder,
    "table": Table,
    "flickr8k": Flickr8k,
    "flickr8k-audio": Flickr8kAudio,
    "spoken-coco": SpokenCoco,
    "coco-captions-2014": CocoCaptions,
    "coco-captions-2017": partial(CocoCaptions, year="2017"),
    "karpathy": Karpathy,
}


@dataclass(frozen=True)
class CorpusOptions:
    """Which corpus, and where. Paths are relative to the data folder of the recipe."""

    layout: Layout
    path: str = "."  # folder of the corpus; the file itself for "table" and "karpathy"
    photos: str = ""  # folder of the photos (Flickr8k with its captions and splits), where it is another one
    splits: str = ""  # dataset_coco.json or dataset_flickr8k.json, for Karpathy's splits in place of the official ones
    dev_percent: int = 10  # photos held out of "table" and "folder", where they name no split
    more: tuple[CorpusOptions, ...] = ()  # corpora that are read as one with this


def read_corpus(data: Path, options: CorpusOptions, report: Report) -> Iterator[CorpusItem]:
    """Captions of a corpus, and of those that are read as one with it.

    Raises Im2SpError when there is nothing at the path, or a list of the corpus cannot be read.
    """
    parts = [open_corpus(data, part, report) for part in (options, *options.more)]
    return chain.from_iterable(part.items(report) for part in parts)


def open_corpus(data: Path, options: CorpusOptions, report: Report) -> Corpus:
    """Open one corpus. Raises Im2SpError as `read_corpus` does."""
    layout, path = options.layout, data / options.path
    in_file = layout in _FILES
    if not (path.is_file() if in_file else path.is_dir()):
        raise Im2SpError(f"{path} is not there: the layout {layout} is a {'file' if in_file else 'folder'}")
    photos = data / options.photos if options.photos else (path.parent if in_file else path)
    splits = karpathy_splits(data / options.splits, report) if options.splits else None
    own = {"dev_percent": options.dev_percent} if layout in ("folder", "table") else {}
    return _READERS[layout](path, photos, splits, **own)
