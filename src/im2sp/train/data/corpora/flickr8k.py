"""Flickr8k -> captions; with Flickr8k Audio, `flickr_audio/{wavs/,wav2capt.txt,wav2spk.txt}` -> spoken captions.

The photos lie in `Flicker8k_Dataset/` beside `Flickr8k.token.txt`, or, as in the copy that most people have, in
`Images/` beside `captions.txt`, which has a row `name.jpg,caption` for each caption and no splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.items import (
    CorpusItem,
    Problem,
    Report,
    first_existing,
    ignore,
    path_inside,
    split_of_photo,
    usable_text,
)
from im2sp.train.data.corpora.lists import read_lines

PHOTO_FOLDER = "Flicker8k_Dataset"  # spelled like this in the official archive
COPIED_PHOTO_FOLDER = "Images"  # of the copy
CAPTION_FILE = "Flickr8k.token.txt"
COPIED_CAPTION_FILE = "captions.txt"
AUDIO_FOLDER = "flickr_audio"
TEXT_FOLDER = "Flickr8k_text"  # the archive of captions and splits, where it was unpacked beside the photos
OFFICIAL = ("test", "dev", "train")  # held-out splits first


@dataclass(frozen=True)
class Flickr8k:
    """Flickr8k without recordings. Memory: texts and splits of 40,000 captions, 15 MB."""

    root: Path  # holds the photos, captions and splits
    given_splits: Mapping[str, str] | None = None  # image id -> split, in place of the official ones

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Captions in the order of their file; caption ids are `<image_id>_<k>`.

        Raises:
            Im2SpError: the caption file or an official split file is missing or cannot be read.
        """
        splits = self.splits(report)
        path = self._caption_file
        if path is None:
            raise Im2SpError(f"{self.root / CAPTION_FILE} is missing: give the Flickr8k folder")
        for caption_id, text in self.texts(report).items():
            image_id = caption_id.rpartition("_")[0]
            image = path_inside(self.photos, f"{image_id}.jpg")
            if image is None:
                report(Problem("unsafe-path", caption_id, f"{path.name}: {image_id[:60]!r} lies outside the corpus"))
            elif split := split_of_photo(image_id, splits.get(image_id), None, caption_id, report):
                yield CorpusItem(image_id, image, caption_id, None, text, "", split)

    def splits(self, report: Report) -> Mapping[str, str]:
        """Image id -> split. Raises Im2SpError as `items` does."""
        return self._official_splits(report) if self.given_splits is None else self.given_splits

    def _official_splits(self, report: Report) -> dict[str, str]:
        found: dict[str, str] = {}
        for split in OFFICIAL:
            name = f"Flickr_8k.{split}Images.txt"
            if split == "test" and not any((folder / name).is_file() for folder in self._text_folders):
                continue  # its photos are in no split then
            path = first_existing(
                self._text_folders, name, "give the Flickr8k folder, or a Karpathy file for the splits"
            )
            for number, line in read_lines(path, report):
                image_id = line.removesuffix(".jpg")
                known = found.setdefault(image_id, split)
                if known != split:
                    where = f"{name}, line {number}"
                    message = f"{where}: photo {image_id} is in {known} and {split}; it counts as {known}"
                    report(Problem("two-splits", where, message, left_out=False))
        return found

    def texts(self, report: Report) -> dict[str, str]:
        """{caption id: text}; a corpus without the caption file has recordings alone, and that is noted."""
        path = self._caption_file
        if path is None:
            message = f"{CAPTION_FILE} is not in {self.root}: no text, so nothing can be scored"
            report(Problem("no-text", CAPTION_FILE, message, left_out=False))
            return {}
        texts: dict[str, str] = {}
        seen: Counter[str] = Counter()
        copied = path.name == COPIED_CAPTION_FILE
        for number, line in read_lines(path, report):
            found = _parse_row(line, seen) if copied else parse_caption(line)
            if found is None or usable_text(found[2]) is None:
                where, wanted = (
                    f"{path.name}, line {number}",
                    "name.jpg,caption" if copied else "name.jpg#k<TAB>caption",
                )
                if not (copied and number == 1):  # the names of its columns
                    message = f"{where}: expected '{wanted}', found {line[:60]!r}"
                    report(Problem("no-text", where, message, left_out=False))
            else:
                texts[f"{found[0]}_{found[1]}"] = found[2]
        return texts

    @property
    def photos(self) -> Path:
        """The folder of the photos."""
        copied = self.root / COPIED_PHOTO_FOLDER
        return copied if copied.is_dir() and not (self.root / PHOTO_FOLDER).is_dir() else self.root / PHOTO_FOLDER

    @property
    def _caption_file(self) -> Path | None:
        names = (CAPTION_FILE, COPIED_CAPTION_FILE)
        return next((path for name in names for at in self._text_folders if (path := at / name).is_file()), None)

    @property
    def _text_folders(self) -> tuple[Path, ...]:
        return (self.root, self.root / TEXT_FOLDER)


@dataclass(frozen=True)
class Flickr8kAudio(Flickr8k):
    """Flickr8k Audio and Flickr8k."""

    audio: Path = Path()  # holds flickr_audio/, or is that folder

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Spoken captions in the order of wav2capt.txt; caption ids are `<image_id>_<k>`.

        Raises:
            Im2SpError: wav2capt.txt or an official split file is missing or cannot be read.
        """
        folders = (self.audio / AUDIO_FOLDER, self.audio)
        path = first_existing(folders, "wav2capt.txt", "give the folder that flickr_audio is in")
        splits, texts = self.splits(report), self.texts(report)
        speakers = _speakers(path.with_name("wav2spk.txt"), report)
        for number, line in read_lines(path, report):
            where = f"{path.name}, line {number}"
            parts = line.rsplit(maxsplit=2)
            wav, photo, k = parts if len(parts) == 3 else ("", "", "")
            index = k.removeprefix("#")
            if not (usable_text(wav) and usable_text(photo) and is_index(index)):
                report(Problem("malformed", where, f"{where}: expected 'wav jpg #k', found {line[:60]!r}"))
                continue
            recording = path_inside(path.parent / "wavs", wav)
            image = path_inside(self.photos, photo)
            if recording is None or image is None:
                report(Problem("unsafe-path", where, f"{where}: {line[:60]!r} lies outside the corpus"))
                continue
            image_id = photo.removesuffix(".jpg")
            caption_id = f"{image_id}_{int(index)}"
            split = split_of_photo(image_id, splits.get(image_id), None, where, report)
            if split is not None:
                text = texts.get(caption_id)
                yield CorpusItem(image_id, image, caption_id, recording, text, speakers.get(wav, ""), split)


def _speakers(path: Path, report: Report) -> dict[str, str]:
    """{wav: speaker}, empty where the file is not there."""
    if not path.is_file():
        report(Problem("no-speaker", path.name, f"{path} is missing: speakers are not known", left_out=False))
        return {}
    speakers = {}
    for number, line in read_lines(path, ignore):  # its encoding matters to no one: names come from wav2capt.txt
        wav, *speaker = line.rsplit(maxsplit=1)
        if not speaker or usable_text(speaker[0]) is None:
            where = f"{path.name}, line {number}"
            message = f"{where}: expected 'wav speaker', found {line[:60]!r}"
            report(Problem("no-speaker", where, message, left_out=False))
        else:
            speakers[wav] = speaker[0]
    return speakers


def parse_caption(line: str) -> tuple[str, int, str] | None:
    """(image id, k, text) of a line "name.jpg#k<TAB>caption"; None when it is no such line."""
    key, tab, text = line.partition("\t")
    name, _, index = key.rpartition("#")
    if not tab or not is_index(index):
        return None
    return name.removesuffix(".jpg"), int(index), text.strip()


def _parse_row(line: str, seen: Counter[str]) -> tuple[str, int, str] | None:
    """(image id, k, text) of a row "name.jpg,caption", whose text may stand in quotes; None when it is no such row.

    Args:
        seen: how many rows each photo had; counted on.
    """
    name, _, text = line.partition(",")
    if not name.endswith(".jpg"):
        return None
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"').strip()
    seen[name] += 1
    return name.removesuffix(".jpg"), seen[name] - 1, text


def is_index(text: str) -> bool:
    """Whether a text is the k of a caption: a small whole number."""
    return text.isascii() and text.isdigit() and len(text) <= 4
