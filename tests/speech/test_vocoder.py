"""Vocoder: pieces equal the whole, durations, limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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


@pytest.mark.parametrize("piece", [1, 7, 39])
def test_pieces_equal_the_whole(graphs: Graphs, vocoder: Vocoder, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    units, durations = np.arange(20) % UNITS, [2, 3] * 10
    whole = vocoder.speak(units, durations)
    assert (whole.units.tolist(), whole.durations.tolist()) == (units.tolist(), durations)
    assert (whole.waveform.dtype, whole.waveform.shape) == (np.float32, (50 * HOP,))
    assert 0.01 < whole.waveform.std() < np.abs(whole.waveform).max() <= 1
    monkeypatch.setattr(module, "PIECE_FRAMES", piece)
    np.testing.assert_allclose(vocoder.speak(units, durations).waveform, whole.waveform, atol=1e-5)
    blind = Vocoder(graphs, replace(graphs.bundle.config.vocoder, context_frames=CONTEXT - 1))  # it does look so far
    assert np.abs(blind.speak(units, durations).waveform - whole.waveform).max() > 1e-3


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
    found = with_graph(vocoder, monkeypatch, logs).durations().extend(np.arange(8), complete=True)
    assert found.tolist() == [1, 1, 1, 3, 8, LONGEST_UNIT, LONGEST_UNIT, 1]


@pytest.mark.parametrize("logs", [np.float32([[np.nan, 1]]), np.float32([[1.0]]), np.float32([1.0, 2.0])])
def test_broken_durations_are_said(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch, logs: np.ndarray) -> None:
    with pytest.raises(BundleError, match="durations"):
        with_graph(vocoder, monkeypatch, logs).durations().extend(np.array([1, 2]), complete=True)


@pytest.mark.parametrize("waveform", [np.zeros((1, 5), np.float32), np.full((1, HOP), np.nan, np.float32)])
def test_broken_waveforms_are_said(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch, waveform: np.ndarray) -> None:
    with pytest.raises(BundleError, match="waveform"):
        with_graph(vocoder, monkeypatch, waveform).synthesize(np.array([3]), 0, 1)


@pytest.mark.parametrize(
    ("units", "durations", "reason"),
    [
        ([], None, "no units"),
        ([UNITS], None, f"unit {UNITS} does not exist"),
        ([1, 2], [1], "1 durations"),
        ([1, 2], [1, -1], "from 0 on"),
        ([1, 2], [2**62, 2**62], "minutes"),
    ],
)
def test_what_cannot_be_spoken_is_refused(
    vocoder: Vocoder, units: list[int], durations: list[int] | None, reason: str
) -> None:
    with pytest.raises(Im2SpError, match=reason):
        vocoder.speak(units, durations)
