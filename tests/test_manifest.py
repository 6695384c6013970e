"""captions.jsonl: recorded lines are whole, names are distinct and stay, one run at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from im2sp.errors import OutputError
from im2sp.manifest import CAPTIONS, LOCK, Manifest, Row, Version, open_manifest
from im2sp.speech.audio import write_wav

VERSION = Version(9, 7, "digest")


def record(manifest: Manifest, photo: Path) -> Path:
    wav = manifest.wav_for(photo)
    write_wav(wav, np.zeros(320, np.float32))
    manifest.append(Row(os.path.abspath(photo), wav.name, [1, 2], [3, 4], -0.5, 0.1), VERSION)
    return wav


def images(folder: Path) -> list[str]:
    return [json.loads(line)["image"] for line in (folder / CAPTIONS).read_text().splitlines()]


def test_rows_survive(tmp_path: Path) -> None:
    photo = tmp_path / "ünïcode \udcff.jpg"  # a name that is not even text
    with open_manifest(tmp_path / "out") as manifest:
        assert not manifest.has(photo, VERSION)
        record(manifest, photo)
        assert manifest.has(photo, VERSION)
    with open_manifest(tmp_path / "out") as manifest:
        assert manifest.has(photo, VERSION)
        manifest.wav_for(photo).unlink()
        assert not manifest.has(photo, VERSION)
    assert json.loads((tmp_path / "out" / CAPTIONS).read_text()) == {
        "image": str(photo),
        "wav": "ünïcode \udcff.wav",
        "units": [1, 2],
        "durations": [3, 4],
        "score": -0.5,
        "seconds": 0.1,
        "heard": None,
        "confidence": None,
        "hedged": False,
        "abstained": False,
        "size": 9,
        "modified": 7,
        "options": "digest",
    }


def test_photos_of_one_stem_get_names_of_their_own(tmp_path: Path) -> None:
    photos = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "c/X.jpg", "d/y.jpg")]
    with open_manifest(tmp_path / "out") as manifest:
        names = [manifest.wav_for(photo).name for photo in photos]
        hashed = manifest.wav_for(photos[1])
    assert len({name.lower() for name in names}) == 5
    assert (names[0], names[4]) == ("x.wav", "y.wav")
    assert all(name.lower().startswith("x-") and len(name) == len("x-12345678.wav") for name in names[1:4])
    with open_manifest(tmp_path / "out") as manifest:  # the same names in the same order, also when asked twice
        assert [manifest.wav_for(photo).name for photo in photos for _ in range(2)][::2] == names
    with open_manifest(tmp_path / "other") as manifest:
        record(manifest, photos[0])
        assert record(manifest, tmp_path / ("ü" * 125 + ".jpg")).is_file()  # 254 bytes
        assert manifest.wav_for(tmp_path / f"{hashed.stem}.jpg").name == hashed.name  # a photo named like a hash
        assert manifest.wav_for(photos[1]).name not in ("x.wav", hashed.name)


@pytest.mark.parametrize("torn", ["{", '{"image": "/b.jpg", "wav": "b.wav"}'])
def test_a_torn_last_line_is_cut(torn: str, tmp_path: Path) -> None:
    with open_manifest(tmp_path) as manifest:
        record(manifest, Path("/a.jpg"))
    whole = (tmp_path / CAPTIONS).read_bytes()
    (tmp_path / CAPTIONS).write_bytes(whole + torn.encode())
    with open_manifest(tmp_path) as manifest:
        assert (tmp_path / CAPTIONS).read_bytes() == whole
        assert (manifest.has(Path("/a.jpg"), VERSION), manifest.has(Path("/b.jpg"), VERSION)) == (True, False)
        record(manifest, Path("/b.jpg"))
    assert images(tmp_path) == ["/a.jpg", "/b.jpg"]


@pytest.mark.parametrize("text", ["eggs", '{"image": 1, "wav": 2}\n', '{"x": 1}\n{"image": "', "[1]\n"])
def test_a_foreign_file_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / CAPTIONS).write_text(text)
    with pytest.raises(OutputError, match="line 1 is not a caption"), open_manifest(tmp_path):
        pass
    assert (tmp_path / CAPTIONS).read_text() == text


def test_one_run_at_a_time(tmp_path: Path) -> None:
    for left in (".a.wav.0123abcd.part", ".a\nb.wav.0123abcd.part", "..wav.0123abcd.part"):  # of a run that was killed
        (tmp_path / left).touch()
    (tmp_path / ".mine.part").touch()
    with open_manifest(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [LOCK, ".mine.part", CAPTIONS]
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


@pytest.mark.parametrize("wav", ["../../x", "..", "", "..\\x.wav", "C:x.wav"])
def test_a_manifest_names_no_file_outside_its_folder(wav: str, tmp_path: Path) -> None:
    line = json.dumps({"image": "/a.jpg", "wav": wav}) + "\n"
    (tmp_path / CAPTIONS).write_text(line)
    with pytest.raises(OutputError, match=r"line 1 names .*, which is no file in that folder"), open_manifest(tmp_path):
        pass
    assert (tmp_path / CAPTIONS).read_text() == line


def test_a_photo_is_done_in_the_version_that_was_captioned(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    with open_manifest(tmp_path / "out") as manifest:
        record(manifest, photo)
        for other in (replace(VERSION, size=8), replace(VERSION, modified=8), replace(VERSION, options="other")):
            assert not manifest.has(photo, other)
        manifest.append(Row(str(photo), "a.wav", [1], [1], 0, 0), replace(VERSION, size=8))  # the last line counts
    with open_manifest(tmp_path / "out") as manifest:
        assert manifest.has(photo, replace(VERSION, size=8))
        wav = manifest.wav_for(photo)
        wav.rename(tmp_path / "elsewhere.wav")
        wav.symlink_to(tmp_path / "elsewhere.wav")
        assert not manifest.has(photo, replace(VERSION, size=8))  # not a file of this folder


@pytest.mark.parametrize("what", ["folder", "manifest", "replaced"])
def test_what_is_removed_during_a_run_ends_it(what: str, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def remove() -> None:
        if what == "folder":
            shutil.rmtree(out)
        else:
            (out / CAPTIONS).unlink()
        if what == "replaced":
            (out / CAPTIONS).touch()

    def run(*, goes_on: bool) -> None:
        with open_manifest(out) as manifest:
            wav = record(manifest, tmp_path / "a.jpg")
            remove()
            if goes_on:
                manifest.append(Row("/b.jpg", wav.name, [1], [1], 0, 0), VERSION)

    for goes_on in (True, False):
        with pytest.raises(OutputError, match="was removed during the run"):
            run(goes_on=goes_on)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_no_half_line_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    write, room = os.write, [100, 0]  # bytes that the disk takes

    def limited(descriptor: int, data: bytes) -> int:
        if not (left := room.pop(0)):
            raise error
        return write(descriptor, data[:left])

    with open_manifest(tmp_path) as manifest:
        record(manifest, Path("/a.jpg"))
        monkeypatch.setattr(os, "write", limited)
        with pytest.raises((OutputError, KeyboardInterrupt)):
            manifest.append(Row("/" + "b" * 100 + ".jpg", "b.wav", [1], [1], 0, 0), VERSION)
        monkeypatch.undo()
        record(manifest, Path("/c.jpg"))
    assert images(tmp_path) == ["/a.jpg", "/c.jpg"]
