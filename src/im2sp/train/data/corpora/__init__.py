"""Corpora in their official layouts, and own recordings -> one stream of captions with their photos and recordings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.coco import coco_captions, karpathy, karpathy_splits, spoken_coco
from im2sp.train.data.corpora.flickr8k import audio_folder, flickr8k, flickr8k_audio
from im2sp.train.data.corpora.items import Corpus, CorpusItem, Report
from im2sp.train.data.corpora.table import own_recordings

Layout = Literal[
    "folder", "table", "flickr8k", "flickr8k-audio", "spoken-coco", "coco-captions-2014", "coco-captions-2017",
    "karpathy",
]  # fmt: skip
_FILES = ("table", "karpathy")  # layouts that are one file


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
    folder = path.parent if in_file else path
    photos = data / options.photos if options.photos else folder
    splits = karpathy_splits(data / options.splits, report) if options.splits else None
    official = splits is None
    match layout:
        case "flickr8k":
            entries = partial(flickr8k, photos, official=official)
        case "flickr8k-audio":
            entries, folder = partial(flickr8k_audio, path, photos, official=official), audio_folder(path) / "wavs"
        case "spoken-coco":
            entries = partial(spoken_coco, path)
        case "karpathy":
            entries = partial(karpathy, path)
        case "coco-captions-2014" | "coco-captions-2017":
            entries = partial(coco_captions, path, year=layout[-4:])
        case "folder" | "table":
            entries = partial(own_recordings, path, dev_percent=options.dev_percent)
    return Corpus(entries, photos, folder, splits)
