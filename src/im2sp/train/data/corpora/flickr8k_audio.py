"""Flickr8k Audio, `flickr_audio/{wavs/,wav2capt.txt,wav2spk.txt}` beside Flickr8k's own files -> spoken captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

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
from im2sp.train.data.flickr8k import CAPTION_FILE, PHOTO_FOLDER, is_index, parse_caption

AUDIO_FOLDER = "flickr_audio"
TEXT_FOLDER = "Flickr8k_text"  # the archive of captions and splits, where it was unpacked beside the photos
OFFICIAL = ("test", "dev", "train")  # held-out splits first


@dataclass(frozen=True)
class Flickr8kAudio:
    """Flickr8k Audio and Flickr8k.

    Memory: texts, speakers and splits of 40,000 captions, 15 MB.
    """

    root: Path  # holds flickr_audio/, or is that folder
    flickr8k: Path  # holds the photos, captions and splits
    splits: Mapping[str, str] | None = None  # image id -> split, in place of the official ones

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Spoken captions in the order of wav2capt.txt; caption ids are `<image_id>_<k>`.

        Raises:
            Im2SpError: wav2capt.txt or an official split file is missing or cannot be read.
        """
        folders = (self.root / AUDIO_FOLDER, self.root)
        path = first_existing(folders, "wav2capt.txt", "give the folder that flickr_audio is in")
        splits = self._official_splits(report) if self.splits is None else self.splits
        texts = self._texts(report)
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
            image = path_inside(self.flickr8k / PHOTO_FOLDER, photo)
            if recording is None or image is None:
                report(Problem("unsafe-path", where, f"{where}: {line[:60]!r} lies outside the corpus"))
                continue
            image_id = photo.removesuffix(".jpg")
            caption_id = f"{image_id}_{int(index)}"
            split = split_of_photo(image_id, splits.get(image_id), None, where, report)
            if split is not None:
                text = texts.get(caption_id)
                yield CorpusItem(image_id, image, caption_id, recording, text, speakers.get(wav, ""), split)

    def _official_splits(self, report: Report) -> dict[str, str]:
        found: dict[str, str] = {}
        for split in OFFICIAL:
            name = f"Flickr_8k.{split}Images.txt"
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

    def _texts(self, report: Report) -> dict[str, str]:
        """{caption id: text}; a corpus without the caption file has recordings alone, and that is noted."""
        there = [folder / CAPTION_FILE for folder in self._text_folders if (folder / CAPTION_FILE).is_file()]
        if not there:
            message = f"{CAPTION_FILE} is not in {self.flickr8k}: no text, so nothing can be scored"
            report(Problem("no-text", CAPTION_FILE, message, left_out=False))
            return {}
        texts: dict[str, str] = {}
        for number, line in read_lines(there[0], report):
            found = parse_caption(line)
            if found is None or usable_text(found[2]) is None:
                where = f"{CAPTION_FILE}, line {number}"
                message = f"{where}: expected 'name.jpg#k<TAB>caption', found {line[:60]!r}"
                report(Problem("no-text", where, message, left_out=False))
            else:
                texts[f"{found[0]}_{found[1]}"] = found[2]
        return texts

    @property
    def _text_folders(self) -> tuple[Path, ...]:
        return (self.flickr8k, self.flickr8k / TEXT_FOLDER)


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
