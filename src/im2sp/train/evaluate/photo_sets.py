"""A file or folder of captions by people in; photos with their references out.

Read are the folders of Flickr8k and of COCO (which holds `annotations/`), a Karpathy file (`dataset_coco.json`), a COCO
file of captions (`captions_val2014.json`, or one of other photos), and a JSON object of file names and their captions.
A text file names the main thing of each photo instead.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from im2sp.errors import Im2SpError, reason
from im2sp.train.data.corpora import CorpusOptions, Layout, read_corpus
from im2sp.train.data.corpora.coco import read_coco_captions
from im2sp.train.data.corpora.items import Problem, ignore, path_inside
from im2sp.train.data.corpora.lists import json_entries, read_lines, read_list
from im2sp.train.data.photo_corpora import read_things

log = logging.getLogger(__name__)

_COCO: dict[str, Layout] = {"2014": "coco-captions-2014", "2017": "coco-captions-2017"}


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
    names = {Path(line).name for _, line in read_lines(Path(split))} if split and Path(split).is_file() else None
    if layout := _layout(captions):
        lies = str(photos) if photos and layout != "flickr8k" else ""  # whose captions lie beside its photos
        found = _captions_of(CorpusOptions(layout, str(captions), lies), None if names else split or "dev")
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


def _layout(captions: Path) -> Layout | None:
    """Tell a corpus with splits; None for a file without."""
    if captions.is_dir():
        annotations = captions / "annotations"
        found = (layout for year, layout in _COCO.items() if list(annotations.glob(f"captions_*{year}.json")))
        return next(found, "flickr8k")
    if not captions.is_file():
        raise Im2SpError(f"there are no captions {captions}: give a folder or a JSON file of captions")
    return "karpathy" if _has_list(captions, "images") and not _has_list(captions, "annotations") else None


def _has_list(path: Path, name: str) -> bool:
    try:
        next(json_entries(path, name, object), None)
    except Im2SpError:  # no such list, or not JSON, which the next reader says
        return False
    return True


def _captions_of(corpus: CorpusOptions, split: str | None) -> Iterator[tuple[Path, str]]:
    kinds: set[str] = set()

    def report(problem: Problem) -> None:
        if problem.kind not in kinds:  # one of each kind says enough
            log.warning(problem.message)
        kinds.add(problem.kind)

    items = read_corpus(Path(), corpus, report)
    return ((item.image, item.text) for item in items if item.text and split in (None, item.split))


def _read_coco(path: Path, photos: Path) -> Iterator[tuple[Path, str]]:
    for _, caption, name in read_coco_captions(path, ignore):
        folder = name.split("_")[1] if name.startswith("COCO_") else "."  # as COCO's archives have them
        yield _inside(photos, f"{folder}/{name}", path), caption.caption


def _read_plain(path: Path, photos: Path) -> Iterator[tuple[Path, str]]:
    try:
        found = msgspec.json.decode(read_list(path), type=dict[str, list[str]])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Im2SpError(
            f"{path} holds no captions ({reason(error)}): give {{file name: [caption, ...]}} or Karpathy's layout"
        ) from error
    return ((photo, text) for name, texts in found.items() for photo in [_inside(photos, name, path)] for text in texts)


def _read_things(path: Path, photos: Path) -> PhotoSet:
    try:
        things = read_things(path)
    except (OSError, ValueError) as error:
        raise Im2SpError(f"{path} cannot be read ({reason(error)}): give a photo, a tab and phrases a line") from error
    return PhotoSet({name: _inside(photos, name, path) for name in things}, {}, things)


def _inside(photos: Path, name: str, listed: Path) -> Path:
    photo = path_inside(photos, name)
    if photo is None:
        raise Im2SpError(f"{listed}: the photo {name!r} lies outside the folder of photos")
    return photo
