"""Golden outputs of the embedded bundle: ten photos to units, durations, score and waveform; a stream equals a caption.

`tests/golden/default.npz` holds them. Write it anew, only when the bundle itself changes, with:

    python -m tests.test_golden

The graphs compute in float32, so processors and thread counts differ by rounding only. Waveforms are compared to 1e-4
(measured between 1 and 2 threads, and with and without graph optimisation: below 1e-6). Units are compared exactly:
no decision on these photos is close enough to tip over by rounding. Every seventh sample is stored, as 16-bit numbers,
which adds 1.5e-5.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from im2sp import Captioner

FILE = Path(__file__).parent / "golden" / "default.npz"
EXAMPLES = Path(__file__).parents[1] / "examples"
STEP = 7  # of the stored samples; no divisor of the 320 samples of a frame
TOLERANCE = 1e-4  # of waveforms, whose full scale is 1
NAMES = (
    "astronaut",
    "chelsea",
    "china",
    "coffee",
    "astronaut-flipped",
    "chelsea-flipped",
    "coffee-left",
    "china-right",
    "sklearn-china-top",
    "sklearn-flower",
)


@cache
def captioner() -> Captioner:
    return Captioner.from_pretrained()


def photo(name: str) -> np.ndarray | Path:
    """The photo of that name: an example as a file, or an array uint8 [H, W, 3]."""
    if name.startswith("sklearn-"):
        pixels = load_sample_image(f"{name.split('-')[1]}.jpg")
        return pixels[: len(pixels) // 2] if name.endswith("-top") else pixels
    source, _, change = name.partition("-")
    path = EXAMPLES / f"{source}.jpg"
    if not change:
        return path
    pixels = np.asarray(Image.open(path).convert("RGB"))
    half = pixels.shape[1] // 2
    return {"flipped": pixels[:, ::-1], "left": pixels[:, :half], "right": pixels[:, half:]}[change]


def stored(waveform: np.ndarray) -> np.ndarray:
    """float32 [samples] -> int16 [samples / STEP]."""
    return np.rint(waveform[::STEP] * 32767).astype(np.int16)


@pytest.mark.parametrize("name", NAMES)
def test_caption_is_as_stored_and_streamed_alike(name: str) -> None:
    golden = np.load(FILE)
    caption = captioner().caption(photo(name))
    np.testing.assert_array_equal(caption.units, golden[f"{name}/units"])
    np.testing.assert_array_equal(caption.durations, golden[f"{name}/durations"])
    np.testing.assert_allclose([caption.score, caption.confidence], golden[f"{name}/score"], atol=1e-3)
    samples = golden[f"{name}/waveform"].astype(np.float32) / 32767
    assert len(caption.waveform) == caption.durations.sum() * 320
    np.testing.assert_allclose(caption.waveform[::STEP], samples, atol=TOLERANCE)

    chunks = list(captioner().stream(photo(name), captioner().default_options))
    np.testing.assert_array_equal(np.concatenate([chunk.units for chunk in chunks]), caption.units)
    np.testing.assert_array_equal(np.concatenate([chunk.durations for chunk in chunks]), caption.durations)
    np.testing.assert_allclose(np.concatenate([chunk.waveform for chunk in chunks]), caption.waveform, atol=1e-5)


@pytest.mark.parametrize("name", NAMES[:2])
def test_greedy_caption_is_as_stored_and_streamed_alike(name: str) -> None:
    golden = np.load(FILE)
    greedy = dataclasses.replace(captioner().default_options, beam=1)
    chunks = list(captioner().stream(photo(name), greedy))
    np.testing.assert_array_equal(np.concatenate([chunk.units for chunk in chunks]), golden[f"{name}/greedy"])
    np.testing.assert_array_equal(captioner().caption(photo(name), greedy).units, golden[f"{name}/greedy"])


def test_speech_encoder_hears_the_stored_units() -> None:
    golden = np.load(FILE)
    speech = captioner().speak(golden["china/units"], golden["china/durations"])
    np.testing.assert_array_equal(captioner().units(speech.waveform), golden["china/heard"])


def write() -> None:
    """Write `tests/golden/default.npz`."""
    arrays = {}
    for name in NAMES:
        caption = captioner().caption(photo(name))
        arrays[f"{name}/units"] = caption.units.astype(np.int16)
        arrays[f"{name}/durations"] = caption.durations.astype(np.int16)
        arrays[f"{name}/score"] = np.array([caption.score, caption.confidence])
        arrays[f"{name}/waveform"] = stored(caption.waveform)
        if name == "china":
            speech = captioner().speak(caption.units, caption.durations)
            arrays["china/heard"] = captioner().units(speech.waveform).astype(np.int16)
    greedy = dataclasses.replace(captioner().default_options, beam=1)
    for name in NAMES[:2]:
        arrays[f"{name}/greedy"] = captioner().caption(photo(name), greedy).units.astype(np.int16)
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    write()
