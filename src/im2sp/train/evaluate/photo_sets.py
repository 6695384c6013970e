"""Which photos are spoken about, and what people wrote about them: Flickr8k's folder or any corpus -> a PhotoSet."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.items import Corpus, Problem, consistent
from im2sp.train.data.flickr8k import photo_path, read_captions, read_split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotoSet:
    """Photos with their references, both by image id."""

    photos: Mapping[str, Path]
    references: Mapping[str, list[str]]  # at least one each


def flickr8k_photos(root: Path, split: str) -> PhotoSet:
    """A split of a Flickr8k folder. Raises Im2SpError when an official file is missing or broken."""
    images = read_split(root, split)
    references: dict[str, list[str]] = {image: [] for image in images}
    for caption in read_captions(root, (split,)):
        references[caption.image_id].append(caption.text)
    return PhotoSet({image: photo_path(root, image) for image in images}, references)


def corpus_photos(corpus: Corpus, split: str) -> PhotoSet:
    """A split of any corpus; Karpathy's "test" of `dataset_coco.json` has the 5,000 photos of published numbers.

    Raises:
        Im2SpError: the corpus cannot be read, or has no captions with text in this split.
    """
    photos: dict[str, Path] = {}
    references: dict[str, list[str]] = {}
    kinds: Counter[str] = Counter()

    def report(problem: Problem) -> None:
        kinds[problem.kind] += 1
        if kinds[problem.kind] == 1:  # one of each kind says enough
            log.warning(problem.message)

    for item in consistent(corpus, report):
        if item.split == split and item.text:
            photos[item.image_id] = item.image
            references.setdefault(item.image_id, []).append(item.text)
    for kind, count in sorted(kinds.items()):
        log.warning("problems of kind %s: %d", kind, count)
    if not photos:
        raise Im2SpError(f"the corpus has no captions with text in the split {split}: choose another split")
    return PhotoSet(photos, references)
