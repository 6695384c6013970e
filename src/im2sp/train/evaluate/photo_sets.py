"""A file or folder of captions by people in; photos with their references out.

Read are the folders of Flickr8k and of COCO (which holds `annotations/`), a Karpathy file (`dataset_coco.json`), a COCO
file of captions (`captions_val2014.json`, or one of other photos), and a JSON object of file names and their captions.
A text file names the main thing of each photo instead.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from im2sp.errors import Im2SpError, reason
from im2sp.train.data.corpora.coco_captions import YEARS, CocoAnnotation, CocoCaptions, CocoPhoto
from im2sp.train.data.corpora.flickr8k import Flickr8k
from im2sp.train.data.corpora.items import Corpus, Problem, path_inside
from im2sp.train.data.corpora.karpathy import Karpathy
from im2sp.train.data.corpora.lists import json_entries
from im2sp.train.data.photo_corpora import read_things

log = logging.getLogger(__name__)

_MAX_BYTES = 256 * 2**20  # of a JSON object of captions


@dataclass(frozen=True)
class PhotoSet:
    """Photos and what is known of them, by the file names of the photos."""

    photos: Mapping[str, Path]  # need not exist
    references: Mapping[str, list[str]]  # at least one each
    things: Mapping[str, list[str]] = field(default_factory=dict)  # in their place: phrases that name the main thing

    def sample(self, count: int, seed: int = 0) -> PhotoSet:
        """Draw at most `count` photos; 0 takes all."""
        names = sorted(self.photos)
        if count:
            names = sorted(random.Random(seed).sample(names, min(count, len(names))))
        known = ({n: texts[n] for n in names if n in texts} for texts in (self.references, self.things))
        return PhotoSet({n: self.photos[n] for n in names}, *known)


def read_photo_set(captions: Path, photos: Path | None = None, split: str | None = None) -> PhotoSet:
    """Read photos with their captions.

    Args:
        captions: folder or file as the module names them.
        photos: folder of the photos, where it is not that of the captions.
        split: "train", "dev" (the default) or "test" of a corpus with splits, or a text file with a name a line.

    Raises:
        Im2SpError: something cannot be read, the captions have no such split, or no photo is left.
    """
    if captions.suffix == ".txt":
        return _read_things(captions, photos or captions.parent)
    names = _read_names(Path(split)) if split and Path(split).is_file() else None
    corpus = _open_corpus(captions, photos)
    if corpus:
        found = _captions_of(corpus, None if names else split or "dev")
    elif split and names is None:
        raise Im2SpError(f"{captions} has no splits: give a file with a name a line as the split, not {split!r}")
    else:
        read = _read_coco if _has_list(captions, "annotations") else _read_plain
        found = read(captions, photos or captions.parent)
    paths: dict[str, Path] = {}
    references: dict[str, list[str]] = {}
    for path, text in found:
        if text.strip() and (names is None or path.name in names):
            flat = photos / path.name if photos else path  # photos may lie without the folders of their corpus
            paths[path.name] = flat if not path.exists() and flat.exists() else path
            references.setdefault(path.name, []).append(text.strip())
    if not paths:
        raise Im2SpError(f"{captions} has no captions in the split {split or 'dev'}: choose another")
    return PhotoSet(paths, references)


def _open_corpus(captions: Path, photos: Path | None) -> Corpus | None:
    """Open a corpus with splits; None for a file without."""
    if captions.is_dir():
        annotations = captions / "annotations"
        years = [year for year in YEARS if list(annotations.glob(f"captions_*{year}.json"))]
        return CocoCaptions(captions, photos or captions, year=years[0]) if years else Flickr8k(captions, captions)
    if not captions.is_file():
        raise Im2SpError(f"there are no captions {captions}: give a folder or a JSON file of captions")
    karpathy = _has_list(captions, "images") and not _has_list(captions, "annotations")
    return Karpathy(captions, photos or captions.parent) if karpathy else None


def _has_list(path: Path, name: str) -> bool:
    try:
        next(json_entries(path, name, object), None)
    except Im2SpError:  # no such list, or not JSON, which the next reader says
        return False
    return True


def _captions_of(corpus: Corpus, split: str | None) -> Iterator[tuple[Path, str]]:
    kinds: Counter[str] = Counter()

    def report(problem: Problem) -> None:
        kinds[problem.kind] += 1
        if kinds[problem.kind] == 1:  # one of each kind says enough
            log.warning(problem.message)

    for item in corpus.items(report):
        if item.text and split in (None, item.split):
            yield item.image, item.text


def _read_coco(path: Path, photos: Path) -> Iterator[tuple[Path, str]]:
    names = {photo.id: photo.file_name for _, photo in json_entries(path, "images", CocoPhoto)}
    for _, caption in json_entries(path, "annotations", CocoAnnotation):
        if caption.image_id in names:
            name = names[caption.image_id]
            folder = name.split("_")[1] if name.startswith("COCO_") else "."  # as COCO's archives have them
            photo = path_inside(photos, f"{folder}/{name}")
            if photo is None:
                raise Im2SpError(f"{path}: the photo {name!r} lies outside the folder of photos")
            yield photo, caption.caption


def _read_plain(path: Path, photos: Path) -> Iterator[tuple[Path, str]]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise Im2SpError(f"{path} is larger than {_MAX_BYTES >> 20} MB: split it")
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Im2SpError(f"the captions {path} cannot be read ({reason(error)})") from error
    if not isinstance(found, dict) or not all(isinstance(texts, list) for texts in found.values()):
        raise Im2SpError(f"{path} holds no captions: give {{file name: [caption, ...]}} or Karpathy's layout")
    for name, texts in found.items():
        photo = path_inside(photos, name)
        if photo is None:
            raise Im2SpError(f"{path}: the photo {name!r} lies outside the folder of photos")
        for text in texts:
            yield photo, str(text)


def _read_things(path: Path, photos: Path) -> PhotoSet:
    try:
        things = read_things(path)
    except (OSError, ValueError) as error:
        raise Im2SpError(f"{path} cannot be read ({reason(error)}): give a photo, a tab and phrases a line") from error
    paths = {name: inside for name in things if (inside := path_inside(photos, name))}
    if len(paths) < len(things):
        raise Im2SpError(f"{path}: a photo lies outside of {photos}")
    return PhotoSet(paths, {}, things)


def _read_names(path: Path) -> set[str]:
    try:
        return {Path(line.strip()).name for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise Im2SpError(f"the names of photos {path} cannot be read ({reason(error)})") from error
