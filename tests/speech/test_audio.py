"""Recordings of any rate and kind become float32 at 16 kHz; wavs are written whole or not at all."""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from im2sp.errors import AudioError
from im2sp.speech import audio
from im2sp.speech.audio import SAMPLE_RATE, encode_wav, read_audio, to_pcm16, write_wav


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def encoded(waveform: np.ndarray, rate: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def complaint(source: object) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(source)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- reading ----


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 96_000])
def test_resampling(rate: int) -> None:
    waveform = read_audio(encoded(tone(rate, 1.0), rate, subtype="FLOAT"))
    assert (waveform.dtype, waveform.shape) == (np.float32, (SAMPLE_RATE,))
    inner = slice(500, -500)
    assert np.abs(waveform[inner] - tone(SAMPLE_RATE, 1.0)[inner]).max() < 5e-3


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_kinds_and_sources(kind: str, tmp_path: Path) -> None:
    data = encoded(tone(SAMPLE_RATE), SAMPLE_RATE, kind)
    path = tmp_path / "speech.any"  # the contents count, not the name
    path.write_bytes(data)
    first = read_audio(data)
    assert np.isclose(len(first), SAMPLE_RATE // 2, atol=2_000)
    assert np.array_equal(first, read_audio(io.BytesIO(data)))
    assert np.array_equal(first, read_audio(path))
    assert np.array_equal(first, read_audio(str(path)))
    with path.open("rb") as file:
        file.seek(7)
        assert np.array_equal(first, read_audio(file))


def test_channels_are_averaged_and_loud_ones_clipped() -> None:
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1).astype(np.float32)
    assert np.allclose(read_audio(encoded(stereo, SAMPLE_RATE, subtype="FLOAT")), 0.125)
    loud = np.array([3.0, -3.0], np.float32)
    assert read_audio(encoded(loud, SAMPLE_RATE, subtype="FLOAT")).tolist() == [1.0, -1.0]
    overflowing = np.where(np.arange(4_000) % 2, 3e38, -3e38).astype(np.float32)
    assert "too loud to be resampled" in complaint(encoded(overflowing, 44_100, subtype="FLOAT"))
    assert "not finite" in complaint(encoded(np.array([0, np.nan, 0], np.float32), SAMPLE_RATE, subtype="FLOAT"))


def test_missing_folder_empty_and_not_a_recording(tmp_path: Path) -> None:
    missing, empty, text = tmp_path / "missing.wav", tmp_path / "empty.wav", tmp_path / "text.wav"
    empty.touch()
    text.write_text("this is not speech " * 50)
    assert complaint(missing) == f"{missing}: cannot be read (there is no such file)"
    assert complaint(tmp_path) == f"{tmp_path}: cannot be read (it is a folder)"
    assert complaint(empty) == f"{empty}: is empty (zero bytes)"
    assert complaint(text).startswith(f"{text}: is not a recording")
    assert "holds no sound" in complaint(encoded(np.zeros(0, np.float32), SAMPLE_RATE))
    assert "empty" in complaint(b"")
    assert "cannot be read" in complaint("a\0b.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a regular file" in complaint(tmp_path / "pipe.wav")
    assert "seek" in complaint(7)
    headless = tmp_path / "headless.raw"
    headless.write_bytes(bytes(100))
    assert "has no header" in complaint(headless)


def test_what_would_take_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.wav"
    with path.open("wb") as file:
        file.truncate(audio.MAX_FILE_BYTES + 1)  # a hole: takes no disk
    assert "536,870,912 at most" in complaint(path)
    assert "33 channels" in complaint(encoded(np.zeros((10, 33), np.float32), SAMPLE_RATE))
    assert "sampling rate of 100 Hz" in complaint(encoded(np.zeros(10, np.float32), 100))
    monkeypatch.setattr(audio, "MAX_SECONDS", 60)
    silence = encoded(np.zeros(61 * SAMPLE_RATE, np.float32), SAMPLE_RATE, "FLAC")
    assert len(silence) < 100_000  # small on disk, large in memory
    assert "longer than 1 minutes" in complaint(silence)


def test_a_wav_cut_short_is_read_as_far_as_it_goes() -> None:
    data = encoded(tone(SAMPLE_RATE), SAMPLE_RATE)
    half = read_audio(data[: len(data) // 2])
    assert np.array_equal(half, read_audio(data)[: len(half)])
    assert len(half) > 3_000


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(["WAV", "FLAC", "OGG"]), data=st.data())
def test_damaged_files_are_read_or_refused_but_nothing_else(kind: str, data: st.DataObject) -> None:
    whole = bytearray(encoded(tone(SAMPLE_RATE, 0.05), SAMPLE_RATE, kind))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(AudioError):
        waveform = read_audio(bytes(whole))
        assert waveform.dtype == np.float32
        assert np.abs(waveform).max() <= 1


# ---- writing ----


def test_what_is_written_is_read(tmp_path: Path) -> None:
    waveform, path = np.linspace(-1.5, 1.5, 100, dtype=np.float32), tmp_path / "a" / "b.wav"  # the folder is made
    write_wav(path, waveform)
    assert os.listdir(path.parent) == ["b.wav"]
    assert np.abs(read_audio(path) - waveform.clip(-1, 1)).max() <= 1 / 32_768
    assert encode_wav(waveform) == path.read_bytes()
    assert to_pcm16(waveform).tolist() == soundfile.read(path, dtype="int16")[0].tolist()


@pytest.mark.parametrize("wrong", [np.zeros((2, 3), np.float32), np.zeros(3, np.int16), np.float32([0, np.inf])])
def test_waveforms_that_are_none(wrong: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(AudioError):
        write_wav(tmp_path / "x.wav", wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("head", "kind"), [(b"\0\0\0\x1cftypM4A \0\0\0\0", "MPEG-4"), (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01", "WebM")]
)
def test_kinds_that_are_not_read_are_named(head: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "memo.m4a"
    path.write_bytes(head + bytes(200))
    for source in (path, path.read_bytes()):
        assert re.search(f"is {kind}.*, which im2sp does not read; convert it to WAV, FLAC", complaint(source))
    assert complaint("https://example.org/a.wav").endswith(
        "cannot be read (addresses are not fetched; save the file first and give its path)"
    )
