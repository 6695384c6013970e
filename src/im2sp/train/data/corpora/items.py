"""What every corpus becomes: a stream of captions, each with its photo and perhaps a recording, and of problems."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated

import msgspec

MAX_ID = 512  # characters of an id or a path
MAX_TEXT = 10_000  # characters of a caption
_USABLE = r"^(?!\s*$)[^\0]*$"
Name = Annotated[str, msgspec.Meta(max_length=MAX_ID, pattern=_USABLE)]  # an id or a path in a JSON file
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT, pattern=_USABLE)]  # a caption in a JSON file

# Official split names -> ours. "restval" (Karpathy) stays apart.
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
    message: str


Report = Callable[[Problem], None]


def ignore(problem: Problem) -> None:
    """A report for those who need the items alone."""


@dataclass(frozen=True)
class Entry:
    """A caption as the list of its corpus has it."""

    where: str  # in the list, for messages
    image_id: str
    photo: str  # path in `Corpus.photos`
    caption_id: str
    split: str | None
    text: str | None = None
    recording: str | None = None  # path in `Corpus.recordings`
    speaker: str = ""


@dataclass(frozen=True)
class Corpus:
    """A corpus that can be read more than once, always in the same order.

    Attributes:
        entries: yields what its lists say, held-out splits first as far as these have lists of their own.
        photos: folder that the paths of photos start from.
        recordings: folder that the paths of recordings start from.
        splits: image id -> split, in place of the corpus's own.
    """

    entries: Callable[[Report], Iterator[Entry]]
    photos: Path
    recordings: Path
    splits: Mapping[str, str] | None = None

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Yield captions one by one, each id once, and each photo in the split of its first caption only.

        What is wrong with one of them is reported and never ends the stream. Memory: one string for each caption and
        each photo, 0.1 GB for the 600,000 captions of SpokenCOCO, beside the list.

        Raises Im2SpError when a file that lists the corpus is missing or is not what it should be.
        """
        captions: set[str] = set()
        splits: dict[str, str] = {}
        for entry in self.entries(report):
            split = entry.split if self.splits is None else self.splits.get(entry.image_id)
            image = path_inside(self.photos, entry.photo)
            recording = path_inside(self.recordings, entry.recording) if entry.recording else None
            known = splits.setdefault(entry.image_id, split) if split else split
            if image is None or (entry.recording and recording is None):
                report(Problem("unsafe-path", entry.where, f"{entry.where}: a path leads out of the corpus"))
            elif split is None:
                report(Problem("no-split", entry.where, f"photo {entry.image_id} is in no split: left out"))
            elif known != split:
                where = f"{entry.caption_id} is of split {split}, but its photo {entry.image_id} was in {known} before"
                report(Problem("two-splits", entry.caption_id, f"{where}: left out, so that no test photo is learned"))
            elif entry.caption_id in captions:
                report(Problem("duplicate", entry.caption_id, f"{entry.caption_id} is there twice: the first counts"))
            else:
                captions.add(entry.caption_id)
                text = entry.text and entry.text.strip()
                yield CorpusItem(entry.image_id, image, entry.caption_id, recording, text, entry.speaker.strip(), split)


def usable_text(value: object, most: int = MAX_ID) -> str | None:
    """`value` without outer blanks when it is a text: not empty, of at most `most` characters, without NUL."""
    if not isinstance(value, str) or len(value) > most or "\0" in value:
        return None
    return value.strip() or None


def path_inside(root: Path, name: str) -> Path | None:
    """The file `name` (with forward slashes) of a corpus; None when it would lie outside `root`."""
    given = PurePosixPath(name)
    outside = given.is_absolute() or ".." in given.parts or PureWindowsPath(name).drive or "\\" in name
    return None if outside or not given.parts else root / given


def coco_image_id(name: str) -> str | None:
    """The number at the end of a COCO file name ("val2014/COCO_val2014_000000391895.jpg" -> "391895"), or None."""
    found = _COCO_NAME.fullmatch(PurePosixPath(name).name)
    return found[1] if found else None
