"""A layout's name and folders -> the corpus."""

from __future__ import annotations

from pathlib import Path

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.coco_captions import YEARS, CocoCaptions
from im2sp.train.data.corpora.flickr8k_audio import Flickr8kAudio
from im2sp.train.data.corpora.items import Corpus, Report
from im2sp.train.data.corpora.karpathy import Karpathy
from im2sp.train.data.corpora.spoken_coco import SpokenCoco

SPOKEN = ("flickr8k-audio", "spoken-coco")  # layouts with recordings
LAYOUTS = (*SPOKEN, *(f"coco-captions-{year}" for year in YEARS), "karpathy")


def open_corpus(
    layout: str,
    path: Path,
    report: Report,
    photos: Path | None = None,
    splits: Path | None = None,
    restval_as_train: bool = False,
) -> Corpus:
    """A corpus by the name of its layout.

    Args:
        layout: one of LAYOUTS.
        path: its folder; for "karpathy" the JSON file.
        report: told about what is wrong in `splits`.
        photos: the folder of the photos (of Flickr8k with its captions and splits), where that is another one.
        splits: a Karpathy file whose splits replace the official ones.
        restval_as_train: whether "restval" of a Karpathy file counts as train.

    Raises:
        Im2SpError: the layout is unknown, there is nothing at `path`, or `splits` cannot be read.
    """
    if layout not in LAYOUTS:
        raise Im2SpError(f"the layout {layout!r} is not known: choose one of {', '.join(LAYOUTS)}")
    if not (path.is_file() if layout == "karpathy" else path.is_dir()):
        what = "a Karpathy file, such as dataset_coco.json" if layout == "karpathy" else "the folder of the corpus"
        raise Im2SpError(f"{path} is not there: give {what}")
    if layout == "karpathy":
        if splits is not None:
            raise Im2SpError("a Karpathy file has its own splits: leave out --splits")
        return Karpathy(path, photos or path.parent, restval_as_train)
    given = None if splits is None else Karpathy(splits, path, restval_as_train).splits(report)
    if layout == "flickr8k-audio":
        return Flickr8kAudio(path, photos or path, given)
    if layout == "spoken-coco":
        return SpokenCoco(path, photos or path, given)
    return CocoCaptions(path, photos or path, layout.rpartition("-")[2], given)
