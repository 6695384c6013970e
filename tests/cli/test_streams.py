"""Standard input in the place of a photo or recording, standard output in that of a wav."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from im2sp.cli import app
from im2sp.speech.audio import SAMPLE_RATE, encode_wav, read_audio


@pytest.fixture
def photo() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def call(bundle: Path, *words: str, data: bytes = b"") -> Result:
    result = CliRunner().invoke(app, [*words, "--model", str(bundle)], input=data)
    assert result.exit_code == 0, result.stderr
    return result


def test_a_photo_through_pipes(tiny_bundle: Path, photo: bytes, tmp_path: Path) -> None:
    wav = tmp_path / "x.wav"
    named = call(tiny_bundle, "caption", "-", "-o", str(wav), data=photo)
    assert named.stdout.startswith(f"{wav}: ")
    for out in ("-", "/dev/stdout"):
        piped = call(tiny_bundle, "caption", "-", "-o", out, data=photo)
        assert piped.stdout_bytes == wav.read_bytes()
        assert "s of speech" in piped.stderr
    raw = call(tiny_bundle, "caption", "-", "-o", "-", "--raw", data=photo)
    assert raw.stdout_bytes == wav.read_bytes()[44:]
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


def test_units_and_recordings_through_pipes(tiny_bundle: Path) -> None:
    speech = call(tiny_bundle, "speak", "-", "-o", "-", data=b"1 2 3").stdout_bytes
    assert len(read_audio(speech))
    assert call(tiny_bundle, "speak", "1", "2", "3", "-o", "-", "--raw").stdout_bytes == speech[44:]
    recording = encode_wav(np.random.default_rng(0).uniform(-0.3, 0.3, SAMPLE_RATE).astype(np.float32))
    assert call(tiny_bundle, "units", "-", data=recording).stdout.split()
    refused = CliRunner().invoke(app, ["units", "-", "--model", str(tiny_bundle)], input=b"no recording")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("standard input: is not a recording")
