"""Vocoder: pieces equal the whole, durations, limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from im2sp.bundle import Bundle
from im2sp.errors import BundleError, Im2SpError
from im2sp.onnx import Graph, Graphs
from im2sp.speech import vocoder as module
from im2sp.speech.audio import HOP
from im2sp.speech.durations import LONGEST_UNIT
from im2sp.speech.vocoder import Vocoder
from tests.tiny_bundle import CONTEXT, UNITS


@pytest.fixture(scope="module")
def graphs(tiny_bundle: Path) -> Graphs:
    return Graphs(Bundle.load(tiny_bundle), threads=1)


@pytest.fixture(scope="module")
def vocoder(graphs: Graphs) -> Vocoder:
    return Vocoder(graphs, graphs.bundle.config.vocoder)


def joined(vocoder: Vocoder, frames: np.ndarray, chunk_frames: int) -> np.ndarray:
    return np.concatenate(list(vocoder.synthesize(frames, chunk_frames)))


@settings(max_examples=60)
@given(
    frames=st.lists(st.integers(0, UNITS - 1), min_size=1, max_size=70).map(np.array),
    chunk_frames=st.integers(1, 80),
)
def test_pieces_equal_the_whole(vocoder: Vocoder, frames: np.ndarray, chunk_frames: int) -> None:
    whole = joined(vocoder, frames, len(frames))
    assert whole.dtype == np.float32
    assert whole.shape == (len(frames) * HOP,)
    pieces = list(vocoder.synthesize(frames, chunk_frames))
    assert [len(piece) for piece in pieces[:-1]] == [chunk_frames * HOP] * (len(pieces) - 1)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)


def test_pieces_need_all_of_the_context(graphs: Graphs) -> None:
    """The tiny vocoder does look CONTEXT frames to each side, so the test above proves something."""
    config = graphs.bundle.config.vocoder
    frames = np.random.default_rng(0).integers(0, UNITS, 40)
    blind = Vocoder(graphs, replace(config, context_frames=CONTEXT - 1))
    assert np.abs(joined(blind, frames, 10) - joined(blind, frames, 40)).max() > 1e-3


def test_speak_streams_the_same_waveform(vocoder: Vocoder) -> None:
    units = [3, 3, 7, 1, 2, 2, 3, 19, 0, 5]  # repeats are spoken: callers remove them
    speech = vocoder.speak(units)
    assert speech.units.tolist() == units
    assert speech.durations.sum() * HOP == len(speech.waveform)
    assert np.abs(speech.waveform).max() <= 1
    assert speech.waveform.std() > 0.01
    streamed = np.concatenate(list(vocoder.stream(units, chunk_frames=7)))
    np.testing.assert_allclose(streamed, speech.waveform, atol=1e-5)


def test_long_speech_is_spoken_in_pieces(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    run = Vocoder._run
    monkeypatch.setattr(Vocoder, "_run", lambda self, frames: lengths.append(len(frames)) or run(self, frames))
    vocoder.speak([1, 2] * 20, [module.PIECE_FRAMES // 10] * 40)
    assert len(lengths) == 4
    assert max(lengths) <= module.PIECE_FRAMES + 2 * CONTEXT


def test_streaming_waits_for_nothing(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    run = Vocoder._run
    monkeypatch.setattr(Vocoder, "_run", lambda self, frames: calls.append(len(frames)) or run(self, frames))
    stream = vocoder.stream([1, 2] * 50, chunk_frames=10)
    assert calls == []
    next(stream)
    assert len(calls) == 1


def test_given_durations_are_kept(vocoder: Vocoder) -> None:
    speech = vocoder.speak([3, 3, 4], [2, 1, 5])
    assert speech.units.tolist() == [3, 3, 4]
    assert speech.durations.tolist() == [2, 1, 5]
    assert len(speech.waveform) == 8 * HOP


class Fixed(Graph):
    def __init__(self, *outputs: np.ndarray) -> None:
        self.label = "fixed.onnx"
        self._outputs = list(outputs)

    def run(self, **inputs: np.ndarray) -> list[np.ndarray]:
        return list(self._outputs)


def with_graph(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch, *outputs: np.ndarray) -> Vocoder:
    monkeypatch.setattr(Graphs, "open", lambda self, name: Fixed(*outputs))
    return vocoder


def test_durations_follow_the_contract(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = np.log(np.array([[0.01, 1.0, 2.4, 3.6, 9.0, 1e9]], dtype=np.float32))
    logs = np.append(logs, [[np.inf, -np.inf]], axis=1).astype(np.float32)
    found = with_graph(vocoder, monkeypatch, logs).predict_durations(np.arange(8))
    assert found.tolist() == [1, 1, 1, 3, 8, LONGEST_UNIT, LONGEST_UNIT, 1]


@pytest.mark.parametrize("logs", [np.float32([[np.nan, 1]]), np.float32([[1.0]]), np.float32([1.0, 2.0])])
def test_broken_durations_are_said(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch, logs: np.ndarray) -> None:
    with pytest.raises(BundleError, match="durations"):
        with_graph(vocoder, monkeypatch, logs).predict_durations(np.array([1, 2]))


@pytest.mark.parametrize("waveform", [np.zeros((1, 5), np.float32), np.full((1, HOP), np.nan, np.float32)])
def test_broken_waveforms_are_said(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch, waveform: np.ndarray) -> None:
    with pytest.raises(BundleError, match="waveform"):
        joined(with_graph(vocoder, monkeypatch, waveform), np.array([3]), 1)


@pytest.mark.parametrize(
    ("units", "durations", "reason"),
    [
        ([], None, "no units"),
        ([UNITS], None, f"unit {UNITS} does not exist"),
        ([1, 2], [1], "1 durations"),
        ([1, 2], [1, -1], "from 0 on"),
        ([1, 2], [1, 10**9], "minutes"),
        ([1, 2], [2**62, 2**62], "minutes"),
    ],
)
def test_what_cannot_be_spoken_is_refused(
    vocoder: Vocoder, units: list[int], durations: list[int] | None, reason: str
) -> None:
    with pytest.raises(Im2SpError, match=reason):
        vocoder.speak(units, durations)
