"""captions.jsonl: what is on record is whole, names are distinct and stay, one run at a time."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from im2sp.errors import OutputError
from im2sp.manifest import CAPTIONS, LOCK, Manifest, Row, open_manifest
from im2sp.speech.audio import write_wav


def speak(manifest: Manifest, photo: Path) -> Path:
    wav = manifest.wav_for(photo)
    write_wav(wav, np.zeros(320, np.float32))
    manifest.append(Row(os.path.abspath(photo), wav.name, [1, 2], [3, 4], -0.5, 0.1))
    return wav


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / CAPTIONS).read_text().splitlines()]


def test_records_survive(tmp_path: Path) -> None:
    photo = tmp_path / "ünïcode \udcff.jpg"  # a name that is not even text
    with open_manifest(tmp_path / "out") as manifest:
        assert not manifest.has(photo)
        speak(manifest, photo)
        assert manifest.has(photo)
    with open_manifest(tmp_path / "out") as manifest:
        assert manifest.has(photo)
        manifest.wav_for(photo).unlink()
        assert not manifest.has(photo)
    assert lines(tmp_path / "out") == [
        {
            "image": str(photo),
            "wav": "ünïcode \udcff.wav",
            "units": [1, 2],
            "durations": [3, 4],
            "score": -0.5,
            "seconds": 0.1,
            "confidence": None,
            "abstained": False,
        }
    ]


def test_photos_of_one_stem_get_names_of_their_own(tmp_path: Path) -> None:
    photos = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "c/X.jpg", "d/y.jpg")]
    with open_manifest(tmp_path / "out") as manifest:
        names = [manifest.wav_for(photo).name for photo in photos]
    assert len({name.lower() for name in names}) == 5
    assert (names[0], names[4]) == ("x.wav", "y.wav")
    assert all(name.lower().startswith("x-") and len(name) == len("x-12345678.wav") for name in names[1:4])
    with open_manifest(tmp_path / "out") as manifest:
        assert [manifest.wav_for(photo).name for photo in photos] == names
        assert [manifest.wav_for(photo).name for photo in photos] == names


def test_names_on_record_stay_whatever_comes_first(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg"
    with open_manifest(tmp_path / "out") as manifest:
        assert speak(manifest, second).name == "x.wav"
    with open_manifest(tmp_path / "out") as manifest:
        assert manifest.wav_for(first).name != "x.wav"
        assert manifest.wav_for(second).name == "x.wav"


def test_a_photo_named_like_a_hash(tmp_path: Path) -> None:
    with open_manifest(tmp_path / "out") as manifest:
        manifest.wav_for(tmp_path / "a" / "x.jpg")
        hashed = manifest.wav_for(tmp_path / "b" / "x.jpg")
    with open_manifest(tmp_path / "other") as manifest:
        manifest.wav_for(tmp_path / "a" / "x.jpg")
        assert manifest.wav_for(tmp_path / f"{hashed.stem}.jpg").name == hashed.name
        assert manifest.wav_for(tmp_path / "b" / "x.jpg").name not in ("x.wav", hashed.name)


def test_the_longest_names_fit(tmp_path: Path) -> None:
    photo = tmp_path / ("ü" * 125 + ".jpg")  # 254 bytes
    with open_manifest(tmp_path / "out") as manifest:
        assert speak(manifest, photo).is_file()
        assert speak(manifest, tmp_path / "a" / photo.name).is_file()


@pytest.mark.parametrize(
    "torn", ['{"image": "/b.jpg", "wav": "b.w', '{"im', "{", '{"image": "/b.jpg", "wav": "b.wav"}']
)
def test_a_torn_last_line_is_cut(torn: str, tmp_path: Path) -> None:
    with open_manifest(tmp_path) as manifest:
        speak(manifest, Path("/a.jpg"))
    whole = (tmp_path / CAPTIONS).read_bytes()
    (tmp_path / CAPTIONS).write_bytes(whole + torn.encode())
    with open_manifest(tmp_path) as manifest:
        assert (tmp_path / CAPTIONS).read_bytes() == whole
        assert manifest.has(Path("/a.jpg"))
        assert not manifest.has(Path("/b.jpg"))
        speak(manifest, Path("/b.jpg"))
    assert [line["image"] for line in lines(tmp_path)] == ["/a.jpg", "/b.jpg"]


@pytest.mark.parametrize(
    "text", ["shopping list\n", "eggs", '{"image": 1, "wav": 2}\n', '{"x": 1}\n{"image": "', "[1]\n"]
)
def test_a_file_that_is_not_ours_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / CAPTIONS).write_text(text)
    with pytest.raises(OutputError, match="line 1 is not a caption"), open_manifest(tmp_path):
        pass
    assert (tmp_path / CAPTIONS).read_text() == text


def test_left_over_parts_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".a.wav.abcd_123.part").touch()
    (tmp_path / ".mine.part").touch()
    with open_manifest(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) == [LOCK, ".mine.part", CAPTIONS]


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with open_manifest(tmp_path):
        with pytest.raises(OutputError, match="another im2sp is writing there"), open_manifest(tmp_path):
            pass
        with open_manifest(tmp_path / "elsewhere"):
            pass
    with open_manifest(tmp_path):
        pass


def test_folders_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "odd" / CAPTIONS).mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "odd"):
        with pytest.raises(OutputError, match=str(folder)), open_manifest(folder):
            pass

    def refuse(*args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # tests may run as root, whom no mode keeps out
    with pytest.raises(OutputError, match="permission denied"), open_manifest(tmp_path):
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

    with open_manifest(tmp_path) as manifest:
        speak(manifest, Path("/a.jpg"))
        monkeypatch.setattr(os, "write", limited)
        with pytest.raises(OutputError, match=r"captions\.jsonl: cannot be written \(the disk is full"):
            manifest.append(Row("/" + "b" * 100 + ".jpg", "b.wav", [1], [1], 0, 0))
        monkeypatch.undo()
        assert [line["image"] for line in lines(tmp_path)] == ["/a.jpg"]
        speak(manifest, Path("/c.jpg"))
    assert [line["image"] for line in lines(tmp_path)] == ["/a.jpg", "/c.jpg"]


def test_ctrl_c_within_a_line_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:10])
        raise KeyboardInterrupt

    with open_manifest(tmp_path) as manifest:
        monkeypatch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manifest.append(Row("/b.jpg", "b.wav", [1], [1], 0, 0))
        assert (tmp_path / CAPTIONS).read_bytes() == b""
