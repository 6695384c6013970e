"""In place of the stage `speak`: the recordings of a corpus, for a recipe with the section [corpus]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.items import Corpus, Problem, Report, consistent, ignore
from im2sp.train.data.corpora.layouts import SPOKEN, open_corpus
from im2sp.train.data.speech_ingest import Ingested, IngestOptions, ingest

SPLITS = ("dev", "train")


@dataclass(frozen=True)
class CorpusSection:
    """Section [corpus]: which corpus lies in the data folder of the recipe. Paths are relative to that folder."""

    layout: str  # flickr8k-audio or spoken-coco
    photos: str = "."  # folder of the photos (Flickr8k with its splits)
    splits: str = ""  # dataset_coco.json or dataset_flickr8k.json, for Karpathy's splits
    restval_as_train: bool = False  # Karpathy's restval is for training too
    shard_size: int = 250  # captions
    longest: float = 60.0  # seconds; longer recordings are left out


def ingest_corpus(data: Path, section: CorpusSection, out: Path) -> Ingested:
    """Recordings of the train and the dev part -> speech shards; goes on where it stopped."""
    problems: list[Problem] = []
    options = IngestOptions(shard_size=section.shard_size, longest=section.longest, splits=SPLITS)
    return ingest(_opened(data, section, problems.append), out, options, {"layout": section.layout}, problems)


def corpus_photos(data: Path, section: CorpusSection) -> dict[str, Path]:
    """Photos of both splits by image id, dev first."""
    found: dict[str, dict[str, Path]] = {split: {} for split in SPLITS}
    for item in consistent(_opened(data, section, ignore), ignore):
        if item.split in found:
            found[item.split][item.image_id] = item.image
    return {image_id: path for photos in found.values() for image_id, path in photos.items()}


def _opened(data: Path, section: CorpusSection, report: Report) -> Corpus:
    if section.layout not in SPOKEN:
        raise Im2SpError(f"[corpus] of the recipe has the layout {section.layout!r}: recordings are in {SPOKEN}")
    splits = data / section.splits if section.splits else None
    return open_corpus(section.layout, data, report, data / section.photos, splits, section.restval_as_train)
