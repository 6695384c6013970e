"""Flickr8k -> captions; with Flickr8k Audio, `flickr_audio/{wavs/,wav2capt.txt,wav2spk.txt}` -> spoken captions.

The photos lie in `Flicker8k_Dataset/` beside `Flickr8k.token.txt`, or, as in the copy that most people have, in
`Images/` beside `captions.txt`, which has a row `name.jpg,caption` for each caption and no splits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora.items import MAX_TEXT, Entry, Problem, Report, usable_text
from im2sp.train.data.corpora.lists import read_lines

PHOTO_FOLDER = "Flicker8k_Dataset"  # spelled like this in the official archive
COPIED_PHOTO_FOLDER = "Images"  # of the copy
CAPTION_FILE = "Flickr8k.token.txt"
COPIED_CAPTION_FILE = "captions.txt"
AUDIO_FOLDER = "flickr_audio"
TEXT_FOLDER = "Flickr8k_text"  # the archive of captions and splits, where it was unpacked beside the photos
OFFICIAL = ("test", "dev", "train")  # held-out splits first

_CAPTION = re.compile(r"(?P<image>\S+)\.jpg#(?P<k>\d{1,4})\t(?P<text>.+)")
_COPIED_CAPTION = re.compile(r"(?P<image>[^,]+)\.jpg,(?P<text>.+)")
_RECORDING = re.compile(r"(?P<wav>\S+)\s+(?P<image>\S+)\.jpg\s+#?(?P<k>\d{1,4})")


def photo_folder(root: Path) -> Path:
    """The folder of the photos of a Flickr8k folder."""
    copied = root / COPIED_PHOTO_FOLDER
    return copied if copied.is_dir() and not (root / PHOTO_FOLDER).is_dir() else root / PHOTO_FOLDER


def flickr8k(photos: Path, report: Report, official: bool = True) -> Iterator[Entry]:
    """Captions in the order of their file; caption ids are `<image_id>_<k>`. Memory: 15 MB.

    Args:
        photos: folder of the photos, captions and splits.
        official: whether the official splits are read.
    """
    if _text_file(photos, CAPTION_FILE, COPIED_CAPTION_FILE) is None:
        raise Im2SpError(f"{photos / CAPTION_FILE} is missing: give the Flickr8k folder")
    splits, folder = _splits(photos) if official else {}, photo_folder(photos).name
    for caption_id, text in _texts(photos, report).items():
        image_id = caption_id.rpartition("_")[0]
        yield Entry(caption_id, image_id, f"{folder}/{image_id}.jpg", caption_id, splits.get(image_id), text)


def audio_folder(path: Path) -> Path:
    """The folder flickr_audio in a folder, or that folder itself."""
    inner = path / AUDIO_FOLDER
    return inner if inner.is_dir() else path


def flickr8k_audio(path: Path, photos: Path, report: Report, official: bool = True) -> Iterator[Entry]:
    """Spoken captions in the order of wav2capt.txt; caption ids are `<image_id>_<k>`.

    Args:
        path: holds flickr_audio/, or is that folder.
        photos, official: as of `flickr8k`.
    """
    listed = audio_folder(path) / "wav2capt.txt"
    if not listed.is_file():
        raise Im2SpError(f"{listed} is missing: give the folder that flickr_audio is in")
    splits, folder = _splits(photos) if official else {}, photo_folder(photos).name
    texts, speakers = _texts(photos, report), _speakers(listed.with_name("wav2spk.txt"), report)
    for number, line in read_lines(listed):
        where = f"{listed.name}, line {number}"
        if found := _RECORDING.fullmatch(line):
            wav, image_id = found["wav"], found["image"]
            caption_id, photo = f"{image_id}_{int(found['k'])}", f"{folder}/{image_id}.jpg"
            speaker, text, split = speakers.get(wav, ""), texts.get(caption_id), splits.get(image_id)
            yield Entry(where, image_id, photo, caption_id, split, text, wav, speaker)
        else:
            report(Problem("malformed", where, f"{where}: expected 'wav jpg #k', found {line[:60]!r}"))


def _splits(photos: Path) -> dict[str, str]:
    """Image id -> official split; test photos are in no split where their list is missing."""
    found: dict[str, str] = {}
    for split in OFFICIAL:
        path = _text_file(photos, name := f"Flickr_8k.{split}Images.txt")
        if path is not None:
            found = {line.removesuffix(".jpg"): split for _, line in read_lines(path)} | found
        elif split != "test":
            what = "give the Flickr8k folder, or a Karpathy file for the splits"
            raise Im2SpError(f"{photos / name} is missing: {what}")
    return found


def _texts(photos: Path, report: Report) -> dict[str, str]:
    """{caption id: text}; a corpus without the caption file has recordings alone, and that is noted."""
    path = _text_file(photos, CAPTION_FILE, COPIED_CAPTION_FILE)
    if path is None:
        report(Problem("no-text", CAPTION_FILE, f"{CAPTION_FILE} is not in {photos}: nothing can be scored"))
        return {}
    texts: dict[str, str] = {}
    seen: Counter[str] = Counter()
    copied = path.name == COPIED_CAPTION_FILE
    for number, line in read_lines(path):
        found = (_COPIED_CAPTION if copied else _CAPTION).fullmatch(line)
        text = usable_text(found["text"], MAX_TEXT) if found else None
        if found and text:
            image_id = found["image"]
            k = seen[image_id] if copied else int(found["k"])
            seen[image_id] += 1
            quoted = copied and len(text) > 1 and text[0] == text[-1] == '"'
            texts[f"{image_id}_{k}"] = text[1:-1].replace('""', '"').strip() if quoted else text
        elif number > 1 or not copied:  # there, the names of its columns
            where = f"{path.name}, line {number}"
            report(Problem("no-text", where, f"{where}: expected a photo and its caption, found {line[:60]!r}"))
    return texts


def _text_file(photos: Path, *names: str) -> Path | None:
    folders = (photos, photos / TEXT_FOLDER)
    return next((path for name in names for folder in folders if (path := folder / name).is_file()), None)


def _speakers(path: Path, report: Report) -> dict[str, str]:
    """{wav: speaker}, empty where the file is not there."""
    if not path.is_file():
        report(Problem("no-speaker", path.name, f"{path} is missing: speakers are not known"))
        return {}
    pairs = (line.rsplit(maxsplit=1) for _, line in read_lines(path))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
