"""Streaming: the chunks joined equal the whole, whatever the search, and come as early as they can be known."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from im2sp import Captioner, DecodingOptions, SpeechCaption, SpeechChunk
from im2sp.bundle import Bundle, write_checksums, write_config
from im2sp.errors import ImageError
from im2sp.onnx import Graph
from im2sp.speech.audio import HOP
from im2sp.speech.vocoder import FIRST_FRAMES, MAX_CHUNK_FRAMES, StreamingVocoder, Vocoder
from tests.tiny_bundle import UNITS

TOLERANCE = 1e-5  # what Captioner.stream promises
LONG = {"min_tokens": 40, "max_tokens": 40, "max_repeats": 40}  # the tiny model soon stops or gets into a loop


def with_duration_context(bundle: Path, folder: Path, context: int) -> Path:
    """A copy of a bundle whose config says so."""
    shutil.copytree(bundle, folder)
    config = Bundle.load(folder).config
    vocoder = structs.replace(config.vocoder, duration_context=context)
    write_config(folder, structs.replace(config, vocoder=vocoder))
    write_checksums(folder)
    return folder


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.from_pretrained(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def assert_streams(captioner: Captioner, photo: object, options: DecodingOptions) -> list[SpeechChunk]:
    """The chunks, which together are what `caption` says."""
    whole = captioner.caption(photo, options)
    chunks = list(captioner.stream(photo, options))
    assert [chunk.caption is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    said = chunks[-1].caption
    assert isinstance(said, SpeechCaption)
    for name in ("tokens", "units", "durations", "attention"):
        found, expected = getattr(said, name), getattr(whole, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert said.score == whole.score
    assert said.seconds > 0
    waveform = np.concatenate([chunk.waveform for chunk in chunks])
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(said.waveform, waveform)
    np.testing.assert_allclose(waveform, whole.waveform, rtol=0, atol=TOLERANCE)
    for name in ("units", "durations"):
        parts = [getattr(chunk, name) for chunk in chunks]
        assert all(part.dtype == np.int64 for part in parts)
        np.testing.assert_array_equal(np.concatenate(parts), getattr(whole, name))
    return chunks


def test_repeats_of_the_decoder_are_spoken_where_the_bundle_keeps_them(
    tiny_bundle: Path, photo: np.ndarray, tmp_path: Path
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    config = Bundle.load(tiny_bundle).config
    vocabulary = structs.replace(config.vocabulary, keep_repeats=True)
    write_config(tmp_path / "bundle", structs.replace(config, vocabulary=vocabulary))
    write_checksums(tmp_path / "bundle")
    captioner = Captioner.from_pretrained(tmp_path / "bundle", threads=1)
    options = DecodingOptions(temperature=0.5, min_tokens=30, max_tokens=30, max_repeats=0)
    said = assert_streams(captioner, photo, options)[-1].caption
    assert (said.units[1:] == said.units[:-1]).any()
    assert (captioner.speak([1, 1, 2]).units == [1, 2]).all()  # recordings have repeats at 50 Hz


@pytest.mark.parametrize(
    "options",
    [
        {"beam": 1},
        {"beam": 1, **LONG},
        {"beam": 3},
        {"temperature": 1.5, "seed": 4, **LONG},
        {"beam": 1, "max_tokens": 1},
        {"beam": 4, "max_tokens": 2},
    ],
)
@pytest.mark.parametrize("context", [1, 6])
def test_the_chunks_are_the_caption(
    tiny_bundle: Path, tmp_path: Path, photo: np.ndarray, options: dict[str, float], context: int
) -> None:
    bundle = with_duration_context(tiny_bundle, tmp_path / "bundle", context)
    captioner = Captioner.from_pretrained(bundle, threads=1)
    for picture in (photo, 255 - photo, photo[:1, :1]):
        assert_streams(captioner, picture, DecodingOptions(**options))


def test_the_first_chunk_is_short_and_later_ones_are_longer(captioner: Captioner) -> None:
    units = np.arange(400) % UNITS
    frames = [len(chunk.waveform) // HOP for chunk in StreamingVocoder(captioner.vocoder).extend(units)]
    assert frames[:5] == [FIRST_FRAMES, 3 * FIRST_FRAMES, 12 * FIRST_FRAMES, MAX_CHUNK_FRAMES, MAX_CHUNK_FRAMES]
    assert max(frames) == MAX_CHUNK_FRAMES


def test_it_speaks_before_the_sentence_is_decided(
    captioner: Captioner, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    run = Graph.run
    monkeypatch.setattr(
        Graph, "run", lambda self, **arrays: calls.append(self.label.split(".")[0]) or run(self, **arrays)
    )
    options = DecodingOptions(temperature=4, min_tokens=48, max_tokens=48, max_repeats=48)
    stream = captioner.stream(photo, options)
    calls.clear()
    next(stream)
    assert calls.count("decoder") < 30
    assert calls.count("vocoder") == 1
    stream.close()


def test_stopping_early_leaves_nothing_behind(
    captioner: Captioner, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[object]] = []
    calls: list[str] = []
    encode, run = Captioner.encode, Graph.run

    def remembered(self: Captioner, image: object) -> object:
        prefix = encode(self, image)
        made.extend(map(weakref.ref, (prefix, prefix.keys, prefix.values)))
        return prefix

    monkeypatch.setattr(Captioner, "encode", remembered)
    stream = captioner.stream(photo, DecodingOptions(temperature=1, **LONG))
    made.append(weakref.ref(next(stream).waveform))
    monkeypatch.setattr(Graph, "run", lambda self, **arrays: calls.append(self.label) or run(self, **arrays))
    stream.close()
    gc.collect()
    assert calls == []
    assert [reference() for reference in made] == [None] * 4


def test_a_bad_picture_is_said_at_once(captioner: Captioner) -> None:
    with pytest.raises(ImageError):
        captioner.stream(b"not a picture")


UNIT_LISTS = st.lists(st.integers(0, UNITS - 1), min_size=1, max_size=90).map(
    lambda units: [unit for unit, before in zip(units, [-1, *units[:-1]], strict=True) if unit != before]
)


@settings(max_examples=40)
@given(
    units=UNIT_LISTS,
    cuts=st.lists(st.integers(0, 90), max_size=12),
    context=st.sampled_from([1, 2, 7, 30]),
    tolerance=st.sampled_from([0.75, 100.0]),
)
def test_durations_do_not_depend_on_when_units_come(
    captioner: Captioner, units: list[int], cuts: list[int], context: int, tolerance: float
) -> None:
    config = structs.replace(captioner.bundle.config.vocoder, duration_context=context, duration_tolerance=tolerance)
    vocoder = Vocoder(captioner.graphs, config)
    array = np.array(units)
    expected = vocoder.durations().extend(array, complete=True)
    growing = StreamingVocoder(vocoder)
    chunks = [chunk for cut in sorted(cuts) for chunk in growing.extend(array[:cut])]
    assert not growing.is_finished
    chunks += growing.finish(array)
    assert growing.is_finished
    assert np.concatenate([chunk.durations for chunk in chunks]).tolist() == expected.tolist()
    whole = vocoder.speak(array).waveform
    np.testing.assert_allclose(growing.speech.waveform, whole, rtol=0, atol=TOLERANCE)
