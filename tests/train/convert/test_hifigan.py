"""A published unit HiFi-GAN against transformers, then its graphs, then the runtime's voice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from msgspec.structs import replace

from im2sp.bundle import Bundle, write_checksums, write_config
from im2sp.errors import Im2SpError
from im2sp.onnx import Graphs
from im2sp.speech.vocoder import Vocoder
from im2sp.train.convert.hifigan import convert_hifigan
from im2sp.train.convert.published import WEIGHT_NORM, renamed
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.export import TrainedVoice, export_vocoder
from im2sp.train.models.unit_hifigan import UnitHifigan, UnitHifiganConfig
from tests.tiny_bundle import UNITS
from tests.train.convert.published_hifigan import CONFIG, MANY_VOICES, Reference, write_published

NEW_NAMES = {old: new for new, old in WEIGHT_NORM.items()}  # what torch calls the parts of weight norm today


@pytest.mark.parametrize(("config", "speaker"), [(CONFIG, 0), (MANY_VOICES, 3)])
def test_model_and_graphs_equal_transformers(config: dict[str, Any], speaker: int, tmp_path: Path) -> None:
    reference = Reference(config)
    state = renamed(reference.state(), NEW_NAMES if speaker else {})
    model = convert_hifigan(*write_published(tmp_path, config, state))
    _, parameters = export_vocoder(TrainedVoice(model, None, None), tmp_path, "fp32", speaker)
    assert set(parameters) == {"vocoder", "duration_predictor"}
    for length in (1, 17):
        units = torch.randint(UNITS, (length,), generator=torch.Generator().manual_seed(1))
        expected, durations = reference(units, speaker)
        with torch.inference_mode():
            found, log_durations = model(units[None], speaker)[0], model.log_durations(units[None])[0]
        assert expected.shape == (length * 320,)
        assert 0.05 < expected.abs().max() < 0.99
        assert (found - expected).abs().max() < 1e-5
        assert (log_durations - durations).abs().max() < 1e-5
        waveform = run(tmp_path / "vocoder.onnx", frames=units[None].numpy())
        assert np.abs(waveform - found.numpy()).max() < 1e-5
        logs = run(tmp_path / "duration_predictor.onnx", units=units[None].numpy())
        assert np.abs(logs - log_durations.numpy()).max() < 1e-5
    assert len(torch.exp(durations).round().unique()) > 3


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def test_no_sample_depends_on_frames_beyond_the_context() -> None:
    torch.manual_seed(0)
    model = UnitHifigan(UnitHifiganConfig(units=30, width=8, channels=32)).double().eval()
    context = model.config.context_frames
    middle = context + 2
    frames = torch.randint(30, (1, 2 * middle + 1))
    changed = frames.clone()
    changed[0, middle] = (changed[0, middle] + 1) % 30
    with torch.inference_mode():
        moved = (model(frames) - model(changed))[0].nonzero().flatten()
    assert moved.min() >= (middle - context) * 320
    assert moved.max() < (middle + context + 1) * 320
    # The bound is no larger than it must be by more than a frame.
    assert moved.min() < (middle - context + 2) * 320


def test_the_runtime_speaks_with_it(tiny_bundle: Path, tmp_path: Path) -> None:
    """Units -> predicted durations -> repeated embeddings -> waveform, in one piece and in several."""
    reference = Reference(CONFIG)
    model = convert_hifigan(*write_published(tmp_path, CONFIG, reference.state()))
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    vocoder, _ = export_vocoder(TrainedVoice(model, None, None), folder, "fp32")
    write_config(folder, replace(Bundle.load(tiny_bundle).config, vocoder=vocoder))
    write_checksums(folder)
    bundle = Bundle.load(folder)
    units = torch.tensor([3, 7, 1, 0, 19, 4])
    durations = (reference(units)[1].exp() - 1).round().clamp(min=1).long()
    expected, _ = reference(units.repeat_interleave(durations))
    voice = Vocoder(Graphs(bundle, threads=1), bundle.config.vocoder)
    speech = voice.speak(units.numpy())
    assert speech.durations.tolist() == durations.tolist()
    assert np.abs(speech.waveform - expected.numpy()).max() < 1e-5


def test_the_published_sizes_are_the_defaults() -> None:
    """At full size only names and shapes are compared: the weights take no memory."""
    with torch.device("meta"):
        model = UnitHifigan(UnitHifiganConfig())
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["dict.weight"] == [200, 128]
    assert shapes["conv_pre.weight"] == [512, 128, 7]
    assert shapes["ups.0.weight"] == [512, 256, 11]
    assert shapes["resblocks.14.convs2.2.weight"] == [16, 16, 11]
    assert shapes["dur_predictor.conv1.0.weight"] == [128, 128, 3]
    assert model.config.hop == 320


def test_other_mistakes_are_said(tmp_path: Path) -> None:
    config, checkpoint = write_published(tmp_path, CONFIG, Reference(CONFIG).state())
    with pytest.raises(Im2SpError, match="speaker 1 does not exist"):
        export_vocoder(TrainedVoice(convert_hifigan(config, checkpoint), None, None), tmp_path, "fp32", speaker=1)
    config.write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        convert_hifigan(config, checkpoint)
