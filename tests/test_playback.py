"""Playing: all of the sound in order, waiting for the device, and what is said where something is missing."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from im2sp import Captioner
from im2sp import playback as module
from im2sp.errors import PlaybackError
from im2sp.installing import install_command
from im2sp.playback import BUFFER, PAUSE, AudioPlayer, play

FAKE = Path(__file__).parent / "fake_device"


def use_device(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Let `import sounddevice` find the fake with this device."""
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("IM2SP_DEVICE", device)
    fake = importlib.import_module("sounddevice")
    del sys.modules["sounddevice"]
    monkeypatch.setitem(sys.modules, "sounddevice", fake)  # and no longer after the test


def heard(path: Path) -> np.ndarray:
    """What was played, without silence."""
    samples = np.fromfile(path, dtype=np.float32)
    assert not np.isnan(samples).any()
    return samples[samples != 0]


class ArraySink:
    def __init__(self) -> None:
        self.pieces: list[np.ndarray] = []

    def write(self, waveform: np.ndarray) -> None:
        self.pieces.append(waveform)

    def close(self) -> None:
        pass


def test_a_caption_is_played_chunk_by_chunk_with_a_pause_after_it(tiny_bundle: Path) -> None:
    captioner, sink = Captioner.from_pretrained(tiny_bundle, threads=1), ArraySink()
    caption = play(captioner.stream(np.zeros((9, 9), np.uint8)), sink)
    np.testing.assert_array_equal(np.concatenate(sink.pieces[:-1]), caption.waveform)
    np.testing.assert_array_equal(sink.pieces[-1], np.zeros(PAUSE, np.float32))


def test_everything_is_heard_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_device(monkeypatch, str(tmp_path / "heard"))
    sizes = (1, 319, 320, 321, 5_000, 2 * BUFFER, 7)
    pieces = [np.full(size, number + 1, np.float32) for number, size in enumerate(sizes)]
    with AudioPlayer() as player:
        for piece in pieces:
            player.write(piece)
    np.testing.assert_array_equal(heard(tmp_path / "heard"), np.concatenate(pieces))


def test_writing_waits_until_little_is_left_to_be_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_device(monkeypatch, str(tmp_path / "heard"))
    with AudioPlayer() as player:
        player.write(np.ones(BUFFER + 3_200, np.float32))
        assert (tmp_path / "heard").exists()
        assert player._queued <= BUFFER


def test_nothing_written_is_nothing_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_device(monkeypatch, str(tmp_path / "heard"))
    with AudioPlayer():
        pass
    assert len(heard(tmp_path / "heard")) == 0


def test_an_exception_silences_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_device(monkeypatch, str(tmp_path / "heard"))
    monkeypatch.setattr(module, "BUFFER", 10**7)
    threads = threading.active_count()
    many = 10**6  # samples, for which the fake takes seconds

    def interrupted() -> None:
        with AudioPlayer() as player:
            player.write(np.ones(many, np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(heard(tmp_path / "heard")) < many
    assert threading.active_count() == threads


def test_a_device_that_takes_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    use_device(monkeypatch, "stuck")
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    monkeypatch.setattr(module, "BUFFER", 10)
    with pytest.raises(PlaybackError, match="takes no more sound"), AudioPlayer() as player:
        player.write(np.ones(100, np.float32))
    with pytest.raises(PlaybackError, match="come to an end"), AudioPlayer() as player:
        player.write(np.ones(5, np.float32))


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_device(monkeypatch, "none")
    with pytest.raises(PlaybackError, match=r"^there is no device to play on \(Error querying device -1\): connect"):
        AudioPlayer()
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(PlaybackError, match=re.escape(install_command("play"))):
        AudioPlayer()
    monkeypatch.delitem(sys.modules, "sounddevice")
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PlaybackError, match=r"PortAudio library not found.*apt install libportaudio2"):
        AudioPlayer()
