"""A file or folder of captions by people in; photos with their references out.

Read are Flickr8k's folder, a Karpathy file (`dataset_coco.json`), COCO annotations (`captions_val2014.json`), and a
JSON object of file names and their captions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from im2sp.errors import Im2SpError, reason
from im2sp.train.data.corpora.items import path_inside
from im2sp.train.data.corpora.lists import json_entries
from im2sp.train.data.flickr8k import PHOTO_FOLDER, photo_path, read_captions, read_split

_KARPATHY_SPLITS = {"dev": "val"}
_MAX_BYTES = 256 * 2**20  # of a JSON object of captions
_Captioned = Iterator[tuple[str, str]]  # file name below the folder of photos, one of its captions


@dataclass(frozen=True)
class PhotoSet:
    """Photos with their references, both by the names of the photos."""

    photos: Mapping[str, Path]  # need not exist
    references: Mapping[str, list[str]]  # at least one each

    def sample(self, count: int, seed: int = 0) -> PhotoSet:
        """Draw at most `count` photos; 0 takes all."""
        names = sorted(self.photos)
        if count:
            names = sorted(random.Random(seed).sample(names, min(count, len(names))))
        return PhotoSet({n: self.photos[n] for n in names}, {n: self.references[n] for n in names})


def read_photo_set(captions: Path, photos: Path | None = None, split: str | None = None) -> PhotoSet:
    """Read photos with their captions.

    Args:
        captions: Flickr8k's folder, or a JSON file as the module names them.
        photos: folder of the photos, where it is not that of the captions.
        split: "train", "dev" or "test" of Flickr8k (dev by default) or of a Karpathy file (test by default), or a text
            file with a name a line. The other layouts have no splits of their own.

    Raises:
        Im2SpError: something cannot be read, the layout has no such split, or no photo is left.
    """
    names = _names(Path(split)) if split and Path(split).is_file() else None
    if captions.is_dir():
        return _flickr8k(captions, photos, "dev" if names or not split else split, names)
    layout = _layout(captions)
    if layout == "karpathy":
        found = _karpathy(captions, None if names else split or "test")
    elif split and names is None:
        raise Im2SpError(f"{captions} has no splits: give a file with a name a line as the split, not {split!r}")
    else:
        found = _coco(captions) if layout == "coco" else _plain(captions)
    folder, paths = photos or captions.parent, dict[str, Path]()
    references: dict[str, list[str]] = {}
    for file_name, text in found:
        path, name = path_inside(folder, file_name), Path(file_name).name
        if path is None:
            raise Im2SpError(f"{captions}: the photo {file_name!r} lies outside the folder of photos")
        if text.strip() and (names is None or name in names):
            paths[name] = path if path.exists() else folder / name
            references.setdefault(name, []).append(text.strip())
    if not paths:
        raise Im2SpError(f"{captions} has no captions in the split {split}: choose another")
    return PhotoSet(paths, references)


def _flickr8k(root: Path, photos: Path | None, split: str, names: set[str] | None) -> PhotoSet:
    folder, wanted = photos or root / PHOTO_FOLDER, read_split(root, split)
    wanted = [image for image in wanted if names is None or photo_path(root, image).name in names]
    references: dict[str, list[str]] = {f"{image}.jpg": [] for image in wanted}
    for caption in read_captions(root, (split,)):
        if f"{caption.image_id}.jpg" in references:
            references[f"{caption.image_id}.jpg"].append(caption.text)
    if not references:
        raise Im2SpError(f"{root} has no photos of the split {split} with these names")
    return PhotoSet({name: folder / name for name in references}, references)


def _names(path: Path) -> set[str]:
    try:
        return {Path(line.strip()).name for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise Im2SpError(f"the names of photos {path} cannot be read ({reason(error)})") from error


def _layout(path: Path) -> str:
    if not path.is_file():
        raise Im2SpError(f"there are no captions {path}: give Flickr8k's folder or a JSON file of captions")
    try:
        _, first = next(json_entries(path, "images"))
    except Im2SpError:  # no such list, or not JSON, which the next reader says
        return "plain"
    return "karpathy" if isinstance(first, dict) and "sentences" in first else "coco"


def _karpathy(path: Path, split: str | None) -> _Captioned:
    for number, image in json_entries(path, "images"):
        try:
            if split is None or image["split"] == _KARPATHY_SPLITS.get(split, split):
                name = f"{image['filepath']}/{image['filename']}" if image.get("filepath") else str(image["filename"])
                for sentence in image["sentences"]:
                    yield name, str(sentence["raw"])
        except (KeyError, TypeError, AttributeError) as error:
            raise Im2SpError(f"{path}, image {number}: is not in Karpathy's layout ({reason(error)})") from error


def _coco(path: Path) -> _Captioned:
    try:
        names = {image["id"]: str(image["file_name"]) for _, image in json_entries(path, "images")}
        for _, annotation in json_entries(path, "annotations"):
            yield names[annotation["image_id"]], str(annotation["caption"])
    except (KeyError, TypeError) as error:
        raise Im2SpError(f"{path} is not in COCO's layout of captions ({reason(error)})") from error


def _plain(path: Path) -> _Captioned:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise Im2SpError(f"{path} is larger than {_MAX_BYTES >> 20} MB: split it")
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Im2SpError(f"the captions {path} cannot be read ({reason(error)})") from error
    if not isinstance(found, dict) or not all(isinstance(texts, list) for texts in found.values()):
        raise Im2SpError(f"{path} holds no captions: give {{file name: [caption, ...]}}, COCO's or Karpathy's layout")
    for name, texts in found.items():
        for text in texts:
            yield name, str(text)
