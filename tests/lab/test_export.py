"""Exported graphs against the torch models they come from, and what compressed weights cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import HubertModel

from im2sp.lab.export import export_graph, export_sequence
from im2sp.lab.models.speech_encoder import Clusters, SpeechEncoder, edge_padding, small_hubert_config
from im2sp.lab.models.translator import Translator, TranslatorConfig
from im2sp.lab.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig
from im2sp.lab.stages.export import export_decoder, export_speech_encoder

VOCODER = VocoderConfig(
    units=20, width=64, feed_forward=96, slow_blocks=1, fast_blocks=1, duration_width=48, duration_blocks=1
)


def _run(path: Path, **inputs: object) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


def _encoder() -> SpeechEncoder:
    torch.manual_seed(0)
    config = small_hubert_config(layers=2, width=32, heads=2)
    centres = np.random.default_rng(0).normal(size=(12, 32 + 39)).astype(np.float32)
    return SpeechEncoder(HubertModel(config), 1, edge_padding(config), 3, True, Clusters.around(centres)).eval()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-3), ("int8", 2e-2), ("mixed", 2e-2)])
def test_decoder_graph(precision: str, tolerance: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Translator(TranslatorConfig(vocabulary_size=40, image_width=8, width=64, layers=2, heads=4)).eval()
    count = export_decoder(model, 5, tmp_path, precision)
    assert count > 2 * 12 * 64 * 64
    features, tokens = torch.randn(1, 5, 8), torch.randint(3, 40, (2, 4))
    with torch.inference_mode():
        whole = model(features, tokens, torch.zeros(2, dtype=torch.int64))[:, -1]
        pairs = model.prefix(features)
    keys, values = torch.stack([k for k, _ in pairs]), torch.stack([v for _, v in pairs])
    past_keys = past_values = torch.zeros(2, 2, 4, 0, 16)
    for position in range(4):
        logits, past_keys, past_values, attention = map(
            torch.from_numpy,
            _run(
                tmp_path / "decoder.onnx",
                tokens=tokens[:, position],
                position=torch.tensor([position]),
                prefix_keys=keys,
                prefix_values=values,
                past_keys=past_keys,
                past_values=past_values,
            ),
        )
    assert attention.shape == (2, 5)
    assert (logits - whole).abs().max() < tolerance * whole.abs().max()


def test_vocoder_and_duration_graphs_take_any_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vocoder, durations = UnitVocoder(VOCODER).eval(), DurationPredictor(VOCODER).eval()
    export_sequence(vocoder, "vocoder", "frames", "waveform", tmp_path, "fp32")
    export_sequence(durations, "duration_predictor", "units", "log_durations", tmp_path, "fp32")
    for length in (1, 7, 131):
        units = torch.randint(20, (1, length))
        with torch.inference_mode():
            wave, logs = vocoder(units).numpy(), durations(units).numpy()
        np.testing.assert_allclose(_run(tmp_path / "vocoder.onnx", frames=units)[0], wave, atol=1e-4)
        np.testing.assert_allclose(_run(tmp_path / "duration_predictor.onnx", units=units)[0], logs, atol=1e-4)


def test_speech_encoder_graph_gives_the_same_units(tmp_path: Path) -> None:
    encoder = _encoder()
    export_speech_encoder(encoder, tmp_path, "fp32")
    for samples in (400, 3200, 16_000 + 123):
        wave = torch.randn(1, samples) * 0.1
        with torch.inference_mode():
            expected = encoder(wave).numpy()
        found = _run(tmp_path / "speech_encoder.onnx", waveform=wave)[0]
        assert found.shape == expected.shape == (1, samples // 320)
        assert (found == expected).mean() > 0.99


def test_speech_encoder_drops_the_layers_that_it_does_not_use() -> None:
    torch.manual_seed(0)
    config = small_hubert_config(layers=3, width=32, heads=2)
    hubert = HubertModel(config).eval()
    encoder = SpeechEncoder(hubert, 2, 0)
    wave = torch.randn(1, 3200) * 0.1
    with torch.inference_mode():
        expected = hubert(wave, output_hidden_states=True).hidden_states[2]
        assert torch.equal(encoder.features(wave), expected)
    assert (len(encoder.hubert.encoder.layers), encoder.hubert.config.num_hidden_layers) == (2, 2)
    assert (len(hubert.encoder.layers), hubert.config.num_hidden_layers) == (3, 3)


def test_speech_encoder_comes_back(tmp_path: Path) -> None:
    encoder = _encoder()
    encoder.save(tmp_path)
    loaded = SpeechEncoder.load(tmp_path)
    wave = torch.randn(1, 4000) * 0.1
    with torch.inference_mode():
        assert torch.equal(loaded(wave), encoder(wave))
    assert (loaded.layer, loaded.smoothing) == (1, 3)


def test_smaller_precisions_make_smaller_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256))
    sizes = {}
    for precision in ("fp32", "fp16", "int8"):
        path = tmp_path / f"{precision}.onnx"
        export_graph(layer, [torch.zeros(1, 256)], (["x"], ["y"]), {"x": {0: "n"}, "y": {0: "n"}}, path, precision)
        sizes[precision] = path.stat().st_size
    assert sizes["int8"] < 0.6 * sizes["fp16"] < 0.4 * sizes["fp32"]
