"""Outputs: whole or not at all; links, modes and the umask are kept, and what is no regular file is written into."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from im2sp.files import PART, atomic_write


def write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_the_umask_and_the_old_mode_are_kept(umask: None, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.wav"
    write(path, "one")
    assert mode(path) == 0o600
    path.chmod(0o640)
    write(path, "two")
    assert (mode(path), path.read_text()) == (0o640, "two")


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for target, link in (("real/a.wav", "a.wav"), ("real/none.wav", "dangling.wav"), ("a.wav", "twice.wav")):
        (tmp_path / link).symlink_to(target)
        write(tmp_path / link, link)
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / target).read_text() == link
    assert (tmp_path / "real" / "a.wav").read_text() == "twice.wav"


def test_devices_and_fifos_are_written_into(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    write(fifo, "heard")
    reader.join()
    assert read == ["heard"]
    assert fifo.is_fifo()
    device = tmp_path / "null"
    device.symlink_to("/dev/null")
    write(device, "gone")
    write(Path("/dev/null"), "gone")
    assert device.is_symlink()
    assert Path("/dev/null").is_char_device()


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", "one")

    def fail() -> None:
        with atomic_write(tmp_path / "a.wav") as temporary:
            assert PART.fullmatch(temporary.name)
            temporary.write_text("half")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.wav", "one")]
    with pytest.raises(OSError, match="directory"):
        write(tmp_path, "a folder")
