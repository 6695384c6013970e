"""captions.jsonl: what is on record is whole, names are distinct and stay, one run at a time."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from im2sp.manifest import CAPTIONS, LOCK, Journal, OutputError, Record, open_journal
from im2sp.speech.audio import write_wav


def speak(journal: Journal, photo: Path) -> Path:
    wav = journal.wav_for(photo)
    write_wav(wav, np.zeros(320, np.float32))
    journal.append(Record(os.path.abspath(photo), wav.name, [1, 2], [3, 4], -0.5, 0.1))
    return wav


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / CAPTIONS).read_text().splitlines()]


def test_records_survive(tmp_path: Path) -> None:
    photo = tmp_path / "ünïcode \udcff.jpg"  # a name that is not even text
    with open_journal(tmp_path / "out") as journal:
        assert not journal.is_spoken(photo)
        speak(journal, photo)
        assert journal.is_spoken(photo)
    with open_journal(tmp_path / "out") as journal:
        assert journal.is_spoken(photo)
        journal.wav_for(photo).unlink()
        assert not journal.is_spoken(photo)
    assert lines(tmp_path / "out") == [
        {
            "image": str(photo),
            "wav": "ünïcode \udcff.wav",
            "units": [1, 2],
            "durations": [3, 4],
            "score": -0.5,
            "seconds": 0.1,
            "confidence": None,
            "withheld": False,
        }
    ]


def test_photos_of_one_stem_get_names_of_their_own(tmp_path: Path) -> None:
    photos = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "c/X.jpg", "d/y.jpg")]
    with open_journal(tmp_path / "out") as journal:
        names = [journal.wav_for(photo).name for photo in photos]
    assert len({name.lower() for name in names}) == 5
    assert (names[0], names[4]) == ("x.wav", "y.wav")
    assert all(name.lower().startswith("x-") and len(name) == len("x-12345678.wav") for name in names[1:4])
    with open_journal(tmp_path / "out") as journal:
        assert [journal.wav_for(photo).name for photo in photos] == names
        assert [journal.wav_for(photo).name for photo in photos] == names


def test_names_on_record_stay_whatever_comes_first(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg"
    with open_journal(tmp_path / "out") as journal:
        assert speak(journal, second).name == "x.wav"
    with open_journal(tmp_path / "out") as journal:
        assert journal.wav_for(first).name != "x.wav"
        assert journal.wav_for(second).name == "x.wav"


def test_a_photo_named_like_a_hash(tmp_path: Path) -> None:
    with open_journal(tmp_path / "out") as journal:
        journal.wav_for(tmp_path / "a" / "x.jpg")
        hashed = journal.wav_for(tmp_path / "b" / "x.jpg")
    with open_journal(tmp_path / "other") as journal:
        journal.wav_for(tmp_path / "a" / "x.jpg")
        assert journal.wav_for(tmp_path / f"{hashed.stem}.jpg").name == hashed.name
        assert journal.wav_for(tmp_path / "b" / "x.jpg").name not in ("x.wav", hashed.name)


def test_the_longest_names_fit(tmp_path: Path) -> None:
    photo = tmp_path / ("ü" * 125 + ".jpg")  # 254 bytes
    with open_journal(tmp_path / "out") as journal:
        assert speak(journal, photo).is_file()
        assert speak(journal, tmp_path / "a" / photo.name).is_file()


@pytest.mark.parametrize(
    "torn", ['{"image": "/b.jpg", "wav": "b.w', '{"im', "{", '{"image": "/b.jpg", "wav": "b.wav"}']
)
def test_a_torn_last_line_is_cut(torn: str, tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        speak(journal, Path("/a.jpg"))
    whole = (tmp_path / CAPTIONS).read_bytes()
    (tmp_path / CAPTIONS).write_bytes(whole + torn.encode())
    with open_journal(tmp_path) as journal:
        assert (tmp_path / CAPTIONS).read_bytes() == whole
        assert journal.is_spoken(Path("/a.jpg"))
        assert not journal.is_spoken(Path("/b.jpg"))
        speak(journal, Path("/b.jpg"))
    assert [line["image"] for line in lines(tmp_path)] == ["/a.jpg", "/b.jpg"]


@pytest.mark.parametrize(
    "text", ["shopping list\n", "eggs", '{"image": 1, "wav": 2}\n', '{"x": 1}\n{"image": "', "[1]\n"]
)
def test_a_file_that_is_not_ours_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / CAPTIONS).write_text(text)
    with pytest.raises(OutputError, match="line 1 is not a caption"), open_journal(tmp_path):
        pass
    assert (tmp_path / CAPTIONS).read_text() == text


def test_left_over_parts_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".a.wav.abcd_123.part").touch()
    (tmp_path / ".mine.part").touch()
    with open_journal(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) == [LOCK, ".mine.part", CAPTIONS]


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with open_journal(tmp_path):
        with pytest.raises(OutputError, match="another im2sp is writing there"), open_journal(tmp_path):
            pass
        with open_journal(tmp_path / "elsewhere"):
            pass
    with open_journal(tmp_path):
        pass


def test_folders_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "odd" / CAPTIONS).mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "odd"):
        with pytest.raises(OutputError, match=str(folder)), open_journal(folder):
            pass

    def refuse(*args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # tests may run as root, whom no mode keeps out
    with pytest.raises(OutputError, match="permission denied"), open_journal(tmp_path):
        pass


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    room = 100

    def limited(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[:room])
        room -= written
        return written

    with open_journal(tmp_path) as journal:
        speak(journal, Path("/a.jpg"))
        monkeypatch.setattr(os, "write", limited)
        with pytest.raises(OutputError, match=r"captions\.jsonl: cannot be written \(the disk is full"):
            journal.append(Record("/" + "b" * 100 + ".jpg", "b.wav", [1], [1], 0, 0))
        monkeypatch.undo()
        assert [line["image"] for line in lines(tmp_path)] == ["/a.jpg"]
        speak(journal, Path("/c.jpg"))
    assert [line["image"] for line in lines(tmp_path)] == ["/a.jpg", "/c.jpg"]


def test_ctrl_c_within_a_line_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:10])
        raise KeyboardInterrupt

    with open_journal(tmp_path) as journal:
        monkeypatch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append(Record("/b.jpg", "b.wav", [1], [1], 0, 0))
        assert (tmp_path / CAPTIONS).read_bytes() == b""
