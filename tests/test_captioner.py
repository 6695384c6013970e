"""Captioner: a picture in, a spoken caption out; what is imported on the way."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import im2sp
from im2sp import Captioner, DecodingOptions, SpeechCaption
from im2sp.errors import AudioError, BundleError, ImageError
from im2sp.image.units import ImageUnits
from im2sp.speech.audio import HOP, SAMPLE_RATE
from tests.tiny_bundle import IMAGE_TOKENS, write_tiny_bundle


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.from_pretrained(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_a_caption_is_consistent(captioner: Captioner, photo: np.ndarray) -> None:
    caption = captioner.caption(photo)
    assert isinstance(caption, SpeechCaption)
    assert caption.sample_rate == SAMPLE_RATE
    assert caption.waveform.dtype == np.float32
    assert caption.waveform.shape == (caption.durations.sum() * HOP,)
    assert np.abs(caption.waveform).max() <= 1
    assert caption.units.dtype == caption.durations.dtype == caption.tokens.dtype == np.int64
    assert caption.units.shape == caption.durations.shape
    assert caption.units.tolist() == captioner.vocabulary.decode(caption.tokens).tolist()
    assert (np.diff(caption.units) != 0).all()
    assert caption.attention.shape == (len(caption.tokens), IMAGE_TOKENS)
    assert caption.score < 0
    assert caption.seconds > 0


def test_a_presence_penalty_is_for_tokens_that_say_something_about_a_photo(
    captioner: Captioner, photo: np.ndarray
) -> None:
    evidence = (np.arange(captioner.vocabulary.size) % 2).astype(np.float32)
    options = DecodingOptions(beam=1, min_tokens=30, max_tokens=30, max_repeats=0, presence_penalty=100)
    tokens = captioner.decode(replace(captioner.encode(photo), token_evidence=evidence), options).tokens.tolist()
    counts = {token: tokens.count(token) for token in tokens}
    assert {counts[token] for token in counts if evidence[token]} == {1}
    assert max(counts.values()) > 1


def test_a_batch_says_what_each_photo_says(captioner: Captioner, photo: np.ndarray) -> None:
    pictures = [np.roll(photo, shift, axis=1) for shift in range(10)]  # more than the encoder takes at once
    captions = captioner.caption_batch(pictures)
    for picture, caption in zip(pictures, captions, strict=True):
        alone = captioner.caption(picture)
        assert caption.tokens.tolist() == alone.tokens.tolist()
        assert caption.image is picture
    with pytest.raises(ImageError):
        captioner.caption_batch([photo, b"not a picture"])


@pytest.mark.parametrize("rate", [0.5, 3.0])
def test_rate(captioner: Captioner, photo: np.ndarray, rate: float) -> None:
    usual, options = captioner.caption(photo), replace(captioner.default_options, rate=rate)
    caption = captioner.caption(photo, options)
    assert caption.units.tolist() == usual.units.tolist()
    assert len(caption.waveform) == caption.durations.sum() * HOP
    expected = len(captioner.speak(caption.units, usual.durations).waveform) / rate
    assert abs(len(caption.waveform) - expected) < 0.1 * expected + 2 * HOP
    *_, last = captioner.stream(photo, options)
    assert last.caption is not None
    assert last.caption.durations.tolist() == caption.durations.tolist()
    np.testing.assert_allclose(last.caption.waveform, caption.waveform, atol=1e-5)
    assert len(captioner.speak([3], rate=3).waveform) == HOP  # something always sounds


def test_saving(captioner: Captioner, photo: np.ndarray, tmp_path: Path) -> None:
    caption, file = captioner.caption(photo), io.BytesIO()
    caption.save(tmp_path / "x.WAV")
    caption.save(str(tmp_path / "plain"))
    caption.save(file)
    saved = {(tmp_path / "x.WAV").read_bytes(), (tmp_path / "plain").read_bytes(), file.getvalue()}
    assert saved == {caption.to_wav_bytes()}
    with pytest.raises(AudioError, match=r"x.mp3: only WAV is written; give a name that ends in \.wav"):
        caption.save(tmp_path / "x.mp3")
    assert not (tmp_path / "x.mp3").exists()


def test_what_a_caption_shows_of_itself(captioner: Captioner, photo: np.ndarray) -> None:
    caption = captioner.caption(photo)
    assert re.fullmatch(r"<SpeechCaption: \d\.\d s, \d+ units>", repr(caption))
    assert caption == caption
    assert caption != captioner.caption(photo)
    page = caption._repr_html_()
    assert page.count("data:audio/wav;base64,") == page.count("data:image/jpeg;base64,") == 1
    with io.BytesIO(b"") as file:
        assert "<img" not in replace(caption, image=file)._repr_html_()
    *_, chunk = captioner.stream(captioner.encode(photo))
    assert "array" not in repr(chunk)
    assert chunk.caption is not None
    assert "<img" not in chunk.caption._repr_html_()


def test_options(captioner: Captioner, photo: np.ndarray) -> None:
    assert captioner.default_options == DecodingOptions(beam=3, length_penalty=1.0, max_tokens=40)
    assert len(captioner.caption(photo, DecodingOptions(max_tokens=2)).tokens) == 2
    sampled = [captioner.caption(photo, DecodingOptions(temperature=1.5, seed=seed)) for seed in (1, 1, 2)]
    tokens = [caption.tokens.tolist() for caption in sampled]
    assert tokens[0] == tokens[1] != tokens[2]
    unlimited = captioner.decode(captioner.encode(photo), DecodingOptions(max_tokens=10**6, min_tokens=10**6))
    assert len(unlimited.tokens) <= captioner.bundle.config.decoder.max_tokens


@pytest.mark.parametrize("samples", [400, 719, 720, 16_079, 16_080, 31_999])
def test_every_frame_is_heard_once(captioner: Captioner, samples: int) -> None:
    waveform = np.random.default_rng(samples).normal(size=samples).astype(np.float32)
    whole = captioner.graphs.open("speech_encoder").run(waveform=waveform[None])[0][0]
    assert captioner.units(waveform).tolist() == whole.tolist()


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(399, np.float32),
        np.zeros((1, 1600), np.float32),
        np.zeros(1600, np.int16),
        np.full(1600, np.nan, np.float32),
    ],
)
def test_what_is_not_a_waveform(captioner: Captioner, waveform: np.ndarray) -> None:
    with pytest.raises(AudioError):
        captioner.units(waveform)


# ---- image units ----


@pytest.fixture(scope="module")
def tokenizing(unit_bundle: Path) -> Captioner:
    return Captioner.from_pretrained(unit_bundle, threads=1)


def stored(captioner: Captioner, photo: np.ndarray) -> ImageUnits:
    return ImageUnits(captioner.tokenize(photo), captioner.image_tokenizer)


@pytest.mark.parametrize("options", [None, DecodingOptions(temperature=0.9, seed=3)])
def test_image_units_say_what_the_photo_says(
    tokenizing: Captioner, photo: np.ndarray, options: DecodingOptions | None
) -> None:
    for picture in (photo, 255 - photo // 2):
        units = stored(tokenizing, picture)
        direct, by_units = tokenizing.caption(picture, options), tokenizing.caption(units, options)
        np.testing.assert_array_equal(by_units.waveform, direct.waveform)
        assert by_units.tokens.tolist() == direct.tokens.tolist()
        np.testing.assert_array_equal(by_units.attention, direct.attention)
        streamed = [list(tokenizing.stream(image, options)) for image in (picture, units)]
        for chunk, other in zip(*streamed, strict=True):
            np.testing.assert_array_equal(chunk.waveform, other.waveform)


def test_a_bundle_without_image_units(captioner: Captioner, tokenizing: Captioner, photo: np.ndarray) -> None:
    units = stored(tokenizing, photo)
    for call in (captioner.tokenize, lambda _: captioner.caption(units), lambda _: captioner.reconstruct(units)):
        with pytest.raises(BundleError, match="has no image units: use a bundle that has them"):
            call(photo)


def test_units_of_another_tokenizer(tokenizing: Captioner, photo: np.ndarray, tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "other", seed=1, image_units=True)
    units = stored(Captioner.from_pretrained(folder, threads=1), photo)
    for call in (tokenizing.caption, tokenizing.stream, tokenizing.encode, tokenizing.reconstruct):
        with pytest.raises(ImageError, match="were made by the tokenizer 'tiny-semantic'"):
            call(units)


def test_names_of_the_package() -> None:
    assert set(im2sp.__all__) <= set(dir(im2sp))
    assert im2sp.__version__
    code = "import sys, im2sp; print('numpy' in sys.modules, 'PIL' in sys.modules)"
    assert run_python(code) == ["False False"]  # importing it costs nothing


def run_python(code: str, environment: dict[str, str] | None = None) -> list[str]:
    """The lines that `code` prints in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def test_nothing_is_told_to_anybody(tiny_bundle: Path, tmp_path: Path) -> None:
    """Onnxruntime leaves its number of the machine in the user's cache before it reports; it must find no way to."""
    code = f"""
import numpy, im2sp
im2sp.Captioner.from_pretrained({str(tiny_bundle)!r}, threads=1).caption(numpy.zeros((9, 9, 3), numpy.uint8))
"""
    known = {name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "LD_", "PATH"))}
    homes = {name: str(tmp_path / name) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}  # and no `CI`
    for folder in homes.values():
        Path(folder).mkdir()
    run_python(code, known | homes | {"IM2SP_CACHE": "off"})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_captioning_imports_nothing_of_the_lab_and_stays_small(tiny_bundle: Path, tmp_path: Path) -> None:
    code = f"""
import sys, numpy, im2sp
captioner = im2sp.Captioner.from_pretrained({str(tiny_bundle)!r}, threads=1)
captioner.caption(numpy.zeros((9, 9, 3), numpy.uint8)).save({str(tmp_path / "x.wav")!r})
lab = {{"torch", "transformers", "onnx", "pyarrow", "sklearn", "datasets", "scipy", "im2sp.train"}}
print(sorted(lab & set(sys.modules)))
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024 < 200)
"""
    assert run_python(code) == ["[]", "True"]
