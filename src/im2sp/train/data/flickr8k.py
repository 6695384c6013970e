"""The official Flickr8k folder -> photos, captions and splits (Hodosh et al., 2013)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import Im2SpError

PHOTO_FOLDER = "Flicker8k_Dataset"  # spelled like this in the official archive
CAPTION_FILE = "Flickr8k.token.txt"


@dataclass(frozen=True)
class Caption:
    """One human caption of one photo."""

    image_id: str  # file name of the photo without ".jpg"
    index: int  # 0..4, the k of "name.jpg#k"
    text: str  # as written by the annotator
    split: str  # "train" or "dev"

    @property
    def caption_id(self) -> str:
        """`<image_id>_<k>`, the stem that Flickr8k Audio uses for its recordings."""
        return f"{self.image_id}_{self.index}"


def split_file(root: Path, split: str) -> Path:
    """Where the names of the photos of a split stand."""
    return root / f"Flickr_8k.{split}Images.txt"


def read_split(root: Path, split: str) -> list[str]:
    """Image ids of a split ("train" or "dev"), in file order.

    Raises:
        Im2SpError: the split file is missing.
    """
    path = split_file(root, split)
    if not path.is_file():
        raise Im2SpError(f"{path} is missing: the Flickr8k folder must hold the official split files")
    return [line.strip().removesuffix(".jpg") for line in path.read_text().splitlines() if line.strip()]


def read_captions(root: Path, splits: tuple[str, ...] = ("train", "dev")) -> list[Caption]:
    """All captions of the given splits, in file order.

    Raises:
        Im2SpError: the caption file is missing or a line is not "name.jpg#k<TAB>caption".
    """
    split_of = {image_id: split for split in splits for image_id in read_split(root, split)}
    path = root / CAPTION_FILE
    if not path.is_file():
        raise Im2SpError(f"{path} is missing: the Flickr8k folder must hold the official caption file")
    captions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = parse_caption(line)
        if found is None:
            raise Im2SpError(f"{path}, line {number}: expected 'name.jpg#k<TAB>caption', found {line[:60]!r}")
        image_id, index, text = found
        if image_id in split_of:
            captions.append(Caption(image_id, index, text, split_of[image_id]))
    return captions


def parse_caption(line: str) -> tuple[str, int, str] | None:
    """(image id, k, text) of a line "name.jpg#k<TAB>caption"; None when it is no such line."""
    key, tab, text = line.partition("\t")
    name, _, index = key.rpartition("#")
    if not tab or not is_index(index):
        return None
    return name.removesuffix(".jpg"), int(index), text.strip()


def is_index(text: str) -> bool:
    """Whether a text is the k of a caption: a small whole number."""
    return text.isascii() and text.isdigit() and len(text) <= 4


def photo_path(root: Path, image_id: str) -> Path:
    """Where the photo of an image id lies."""
    return root / PHOTO_FOLDER / f"{image_id}.jpg"


def clean_text(text: str) -> str:
    """A caption as it is spoken: one sentence without stray quotes, hashes and blanks."""
    text = re.sub(r'["#()]|``|\'\'', " ", text).replace("&", " and ").replace("=", " ")
    text = re.sub(r"\s+([.,;:!?'])", r"\1", text)
    text = re.sub(r"\s+", " ", text).strip(" .,;:-")
    return text + "." if text and text[-1] not in "!?" else text
