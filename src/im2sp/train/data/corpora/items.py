"""What every corpus becomes: a stream of captions, each with its photo and perhaps a recording, and of problems."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Protocol

import msgspec

from im2sp.errors import Im2SpError

MAX_ID = 512  # characters of an id or a path
MAX_TEXT = 10_000  # characters of a caption
_USABLE = r"^(?!\s*$)[^\0]*$"
Name = Annotated[str, msgspec.Meta(max_length=MAX_ID, pattern=_USABLE)]  # an id or a path in a JSON file
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT, pattern=_USABLE)]  # a caption in a JSON file

# Official split names -> ours. "restval" (Karpathy) stays apart unless asked otherwise.
SPLITS = {"train": "train", "val": "dev", "dev": "dev", "test": "test", "restval": "restval"}

_COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d{1,12})\.(?:jpg|jpeg|png)", re.IGNORECASE)


@dataclass(frozen=True)
class CorpusItem:
    """One caption of one photo."""

    image_id: str
    image: Path  # need not exist: photos may be elsewhere
    caption_id: str
    recording: Path | None  # any rate and format; need not exist
    text: str | None
    speaker: str  # "" where the corpus does not say
    split: str  # "train", "dev", "test" or "restval"


@dataclass(frozen=True)
class Problem:
    """What was wrong with one item."""

    kind: str  # one word, for counting
    where: str  # file and line or entry, or caption id
    message: str  # one sentence
    left_out: bool = True  # False: only noted, the item is used


Report = Callable[[Problem], None]


class Corpus(Protocol):
    """A corpus that can be read more than once, always in the same order."""

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Captions one by one; what is wrong with one of them is reported and never ends the stream.

        Raises:
            Im2SpError: a file that lists the corpus is missing or is not what it should be.
        """
        ...


def ignore(problem: Problem) -> None:
    """A report for a second reading, whose problems are known already."""


def consistent(corpus: Corpus, report: Report) -> Iterator[CorpusItem]:
    """The items of a corpus, each caption id once, and each photo in one split only: that of its first item.

    Readers take held-out splits first, so a photo that is in two is held out. Memory: one string for each caption
    and each photo, 0.1 GB for the 600,000 captions of SpokenCOCO.
    """
    captions: set[str] = set()
    splits: dict[str, str] = {}
    for item in corpus.items(report):
        known = splits.setdefault(item.image_id, item.split)
        if known != item.split:
            where = f"{item.caption_id} is of split {item.split}, but its photo {item.image_id} was in {known} before"
            report(Problem("two-splits", item.caption_id, f"{where}: left out, so that no test photo is learned"))
        elif item.caption_id in captions:
            report(Problem("duplicate", item.caption_id, f"{item.caption_id} is there twice: the first one is used"))
        else:
            captions.add(item.caption_id)
            yield item


def usable_text(value: object, most: int = MAX_ID) -> str | None:
    """`value` when it is a text that can be stored: not empty, of at most `most` characters, valid Unicode."""
    if not isinstance(value, str) or not value.strip() or len(value) > most or "\0" in value:
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return value


def path_inside(root: Path, name: str) -> Path | None:
    """The file `name` (with forward slashes) of a corpus; None when it would lie outside `root`.

    File systems and lists disagree about letters beyond ASCII: where the plain name is not there, the composed,
    decomposed and Latin-1 spellings are tried.
    """
    given = PurePosixPath(name)
    if given.is_absolute() or ".." in given.parts or PureWindowsPath(name).drive or "\\" in name or not given.parts:
        return None
    path = root / given
    if name.isascii() or os.path.exists(path):
        return path
    spellings = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    with suppress(UnicodeEncodeError):
        spellings.append(name.encode("latin-1").decode("utf-8", "surrogateescape"))
    return next((root / spelling for spelling in spellings if os.path.exists(root / spelling)), path)


def coco_image_id(name: str) -> str | None:
    """The number at the end of a COCO file name ("val2014/COCO_val2014_000000391895.jpg" -> "391895"), or None."""
    found = _COCO_NAME.fullmatch(PurePosixPath(name).name)
    return found[1] if found else None


def split_of_photo(
    image_id: str, own: str | None, given: Mapping[str, str] | None, where: str, report: Report
) -> str | None:
    """The split that a photo has by `given` (image id -> split) or, without it, its `own`; no split is reported."""
    split = own if given is None else given.get(image_id)
    if split is None:
        report(Problem("no-split", where, f"photo {image_id} is in no split: left out"))
    return split


def first_existing(folders: Iterable[Path], name: str, what: str) -> Path:
    """The file `name` in the first folder that has it. Raises Im2SpError when none has."""
    listed = list(folders)
    for folder in listed:
        if (folder / name).is_file():
            return folder / name
    raise Im2SpError(f"{listed[0] / name} is missing: {what}")
