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
    """Names and shapes are those of transformers' modules at the published sizes; the weights take no memory."""
    sizes = {"num_embeddings": 200, "embedding_dim": 128, "model_in_dim": 128, "upsample_initial_channel": 512}
    with torch.device("meta"):
        theirs, ours = Reference(CONFIG | sizes).state(), UnitHifigan(UnitHifiganConfig()).state_dict()
    directions = {name.removesuffix("_v"): part.shape for name, part in theirs.items() if not name.endswith("_g")}
    assert {name: part.shape for name, part in ours.items()} == directions


def test_other_mistakes_are_said(tmp_path: Path) -> None:
    config, checkpoint = write_published(tmp_path, CONFIG, Reference(CONFIG).state())
    with pytest.raises(Im2SpError, match="speaker 1 does not exist"):
        export_vocoder(TrainedVoice(convert_hifigan(config, checkpoint), None, None), tmp_path, "fp32", speaker=1)
    config.write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        convert_hifigan(config, checkpoint)
