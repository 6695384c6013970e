"""Corpora in their official layouts, and own recordings -> one stream of captions with their photos and recordings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.coco_captions import CocoCaptions
from im2sp.train.data.corpora.flickr8k import Flickr8k, Flickr8kAudio
from im2sp.train.data.corpora.items import Corpus, CorpusItem, Report
from im2sp.train.data.corpora.karpathy import Karpathy
from im2sp.train.data.corpora.spoken_coco import SpokenCoco
from im2sp.train.data.corpora.table import Folder, Table

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
    restval_as_train: bool = False  # Karpathy's restval is for training too
    dev_percent: int = 10  # photos held out of "table" and "folder", where they name no split
    more: tuple[CorpusOptions, ...] = ()  # corpora that are read as one with this


@dataclass(frozen=True)
class Corpora:
    """Several corpora as one, in their order."""

    parts: tuple[Corpus, ...]

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Captions of one after the other. Raises Im2SpError as the corpora do."""
        for part in self.parts:
            yield from part.items(report)


def open_corpus(data: Path, options: CorpusOptions, report: Report) -> Corpus:
    """Open a corpus.

    Args:
        report: told about what is wrong in `options.splits`.

    Raises:
        Im2SpError: there is nothing at the path, or the file of splits cannot be read.
    """
    if options.more:
        alone = replace(options, more=())
        return Corpora(tuple(open_corpus(data, each, report) for each in (alone, *options.more)))
    layout, path = options.layout, data / options.path
    if not (path.is_file() if layout in _FILES else path.is_dir()):
        raise Im2SpError(f"{path} is not there: a corpus of the layout {layout} is a {_kind(layout)}")
    photos = data / options.photos if options.photos else (path.parent if layout in _FILES else path)
    if layout == "folder":
        return Folder(path, options.dev_percent)
    if layout == "table":
        return Table(path, path.parent, photos, options.dev_percent)
    if layout == "karpathy":
        return Karpathy(path, photos, options.restval_as_train)
    given = None
    if options.splits:
        given = Karpathy(data / options.splits, path, options.restval_as_train).splits(report)
    if layout == "flickr8k":
        return Flickr8k(photos, given)
    if layout == "flickr8k-audio":
        return Flickr8kAudio(photos, given, path)
    if layout == "spoken-coco":
        return SpokenCoco(path, photos, given)
    return CocoCaptions(path, photos, layout.rpartition("-")[2], given)


def _kind(layout: str) -> str:
    return "file" if layout in _FILES else "folder"
