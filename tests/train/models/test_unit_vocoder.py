"""The vocoder: its inverse transform, its receptive field, its save format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from im2sp.train.models.unit_hifigan import UnitHifigan, UnitHifiganConfig
from im2sp.train.models.unit_vocoder import (
    DurationPredictor,
    InverseTransform,
    UnitVocoder,
    VocoderConfig,
    load_vocoder,
    save_vocoder,
)

SMALL = VocoderConfig(
    units=30, width=24, feed_forward=32, slow_blocks=2, fast_blocks=2, duration_width=16, duration_blocks=1
)


@pytest.fixture
def vocoder() -> UnitVocoder:
    torch.manual_seed(0)
    model = UnitVocoder(SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def test_inverse_transform_is_windowed_overlap_add() -> None:
    torch.manual_seed(0)
    fft, hop, frames = 64, 16, 9
    log_magnitude, phase = torch.randn(1, fft // 2 + 1, frames) * 0.3, torch.randn(1, fft // 2 + 1, frames)
    spectrum = torch.polar(log_magnitude.exp(), phase)
    window = torch.hann_window(fft) / 2
    expected = torch.zeros(1, (frames - 1) * hop + fft)
    for frame in range(frames):
        expected[:, frame * hop : frame * hop + fft] += torch.fft.irfft(spectrum[:, :, frame], fft) * window
    edge = (fft - hop) // 2
    found = InverseTransform(fft, hop)(log_magnitude, phase)
    assert found.shape == (1, frames * hop)
    assert (found - expected[:, edge:-edge]).abs().max() < 1e-5


def moved_by(model: torch.nn.Module, units: int, middle: int) -> torch.Tensor:
    """Where the output changes when the middle one of 2 * middle + 1 units becomes another: indices, ascending."""
    frames = torch.randint(units, (1, 2 * middle + 1))
    changed = frames.clone()
    changed[0, middle] = (changed[0, middle] + 1) % units
    with torch.inference_mode():
        return (model(frames) - model(changed))[0].nonzero().flatten()


@pytest.mark.parametrize("config", [SMALL, VocoderConfig(), UnitHifiganConfig(units=30, width=8, channels=32)])
def test_no_sample_depends_on_frames_beyond_the_context(config: VocoderConfig | UnitHifiganConfig) -> None:
    """And the context is no larger than it must be by more than a frame or two."""
    torch.manual_seed(1)
    context, middle = config.context_frames, config.context_frames + 4
    model = UnitVocoder(config) if isinstance(config, VocoderConfig) else UnitHifigan(config).double()
    moved = moved_by(model.eval(), config.units, middle)
    assert (middle - context) * 320 <= moved.min() < (middle - context + 2) * 320
    assert moved.max() < (middle + context + 1) * 320


@pytest.mark.parametrize("config", [SMALL, VocoderConfig()])
def test_no_duration_depends_on_units_beyond_the_context(config: VocoderConfig) -> None:
    torch.manual_seed(1)
    model = DurationPredictor(config).eval()
    for block in model.blocks:
        torch.nn.init.constant_(block.scale, 2.0)  # as set at the start, the furthest changes would round to nothing
    context, middle = config.duration_context, config.duration_context + 4
    moved = moved_by(model, config.units, middle)
    assert (moved.min(), moved.max()) == (middle - context, middle + context)


def test_saved_networks_come_back(vocoder: UnitVocoder, tmp_path: Path) -> None:
    durations = DurationPredictor(SMALL).eval()
    save_vocoder(vocoder, durations, tmp_path)
    loaded, loaded_durations = load_vocoder(tmp_path)
    frames = torch.randint(30, (1, 12))
    with torch.inference_mode():
        assert torch.equal(loaded(frames), vocoder(frames))
        assert torch.equal(loaded_durations(frames), durations(frames))
