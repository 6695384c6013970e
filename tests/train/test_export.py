"""Exported graphs against the torch models they come from, and what compressed weights cost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from transformers import HubertModel

from im2sp.decoding.cache import GROWTH
from im2sp.decoding.decoder import DecoderStep, Prefix
from im2sp.errors import BundleError
from im2sp.onnx import Graph
from im2sp.onnx.external_data import check_external_data, data_file
from im2sp.onnx.signatures import signatures
from im2sp.train import onnx_export
from im2sp.train.export import TrainedVoice, decoder_config, export_decoder, export_speech_encoder, export_vocoder
from im2sp.train.models.git import DecoderStep as LabDecoderStep
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.models.speech_encoder import Clusters, SpeechEncoder, edge_padding, small_hubert_config
from im2sp.train.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig
from im2sp.train.onnx_export import export_graph

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


def _translator(noise: float = 0.0) -> GitDecoder:
    torch.manual_seed(0)
    model = GitDecoder(
        GitDecoderConfig(vocabulary_size=40, image_width=8, width=64, layers=2, heads=4, max_positions=160)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * noise
    return model


def _decoder(model: GitDecoder, folder: Path, precision: str, features: Tensor) -> DecoderStep:
    """The exported decoder as the runtime runs it, for an image."""
    assert export_decoder(model, features.shape[1], folder, precision) > 2 * 12 * 64 * 64
    session = onnxruntime.InferenceSession(str(folder / "decoder.onnx"), providers=["CPUExecutionProvider"])
    config, image = decoder_config(model.config), SimpleNamespace(image_tokens=features.shape[1], height=1, width=1)
    bundle = SimpleNamespace(decoder=config, image=image, image_units=None, graphs=["decoder"])
    signature = signatures(bundle)["decoder"]  # type: ignore[arg-type]
    with torch.inference_mode():
        pairs = model.prefix(features)
    prefix = Prefix(torch.stack([k for k, _ in pairs]).numpy(), torch.stack([v for _, v in pairs]).numpy())
    return DecoderStep(Graph("decoder", signature, session), config, prefix)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-3), ("int8", 2e-2), ("mixed", 2e-2)])
def test_decoder_graph(precision: str, tolerance: float, tmp_path: Path) -> None:
    model, features = _translator(), torch.randn(1, 5, 8)
    step, cache = _decoder(model, tmp_path, precision, features), None
    tokens = torch.randint(3, 40, (2, 4))
    with torch.inference_mode():
        whole = model(features, tokens, torch.zeros(2, dtype=torch.int64))[:, -1].numpy()
    for position in range(4):
        logits, attention, cache = step(tokens[:, position].numpy(), position, cache)
    assert attention.shape == (2, 5)
    assert (attention.sum(axis=1) > 0).all()
    assert (attention.sum(axis=1) < 1).all()
    assert np.abs(logits - whole).max() < tolerance * np.abs(whole).max()


def test_a_kept_cache_follows_its_hypotheses_however_they_are_reordered(tmp_path: Path) -> None:
    """They multiply, fall back to fewer, cross over, and outgrow the room of the cache twice."""
    model, features, random = _translator(0.1), torch.randn(1, 5, 8), np.random.default_rng(0)
    step, cache = _decoder(model, tmp_path, "fp32", features), None
    rows: list[list[int]] = [[1]]
    for position in range(2 * GROWTH + 3):
        logits, attention, cache = step(np.array([row[-1] for row in rows]), position, cache)
        if position % 13 == 0 or position > 2 * GROWTH:
            photo = torch.zeros(len(rows), dtype=torch.int64)
            with torch.inference_mode():
                whole = model(features, torch.tensor(rows), photo)[:, -1].numpy()
                old = _grown(model, features, torch.tensor(rows))
            np.testing.assert_allclose(logits, whole, atol=1e-4)
            np.testing.assert_allclose(attention, old, atol=1e-5)
        parents = random.integers(0, len(rows), random.integers(1, 7))
        if position % 3 == 0:
            parents = np.arange(len(rows))[::-1]
        cache = cache.reorder(parents)
        rows = [[*rows[parent], int(random.integers(3, 40))] for parent in parents]


def _grown(model: GitDecoder, features: Tensor, rows: Tensor) -> np.ndarray:
    """Attention at the last position, as the step that the lab decodes with gives it."""
    keys, values = (torch.stack(parts) for parts in zip(*model.prefix(features), strict=True))
    past_keys = past_values = torch.zeros(2, len(rows), 4, 0, 16)
    step = LabDecoderStep(model)
    for position, tokens in enumerate(rows.T):
        _, past_keys, past_values, attention = step(
            tokens, torch.tensor([position]), keys, values, past_keys, past_values
        )
    return attention.numpy()


def test_int8_multiplies_in_int8_and_rows_do_not_meet(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.GELU(), torch.nn.Linear(300, 40))
    x = torch.randn(3, 200) * torch.tensor([[1.0], [1.0], [1000.0]])
    free = {"x": {0: "n"}, "y": {0: "n"}}
    assert export_graph(layers, [x], (["x"], ["y"]), free, tmp_path / "int8.onnx", "int8") > 200 * 300 + 300 * 40
    operators = [node.op_type for node in onnx.load(str(tmp_path / "int8.onnx")).graph.node]
    assert operators.count("MatMulNBits") == 2
    assert not {"Gemm", "MatMul"} & set(operators)
    (all_rows,) = _run(tmp_path / "int8.onnx", x=x)
    with torch.inference_mode():
        expected = layers(x).numpy()
    assert (np.abs(all_rows - expected).max(axis=1) < 0.02 * np.abs(expected).max(axis=1)).all()
    for row, together in enumerate(all_rows):
        (alone,) = _run(tmp_path / "int8.onnx", x=x[row : row + 1])
        np.testing.assert_allclose(alone[0], together, atol=1e-5 * np.abs(together).max())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_large_weights_are_kept_beside_their_graph(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers, x = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Linear(256, 8)), torch.randn(2, 64)
    path, free = tmp_path / "layers.onnx", {"x": {0: "n"}, "y": {0: "n"}}
    count = export_graph(layers, [x], (["x"], ["y"]), free, path, precision)
    (whole,) = _run(path, x=x)
    assert not data_file(path).exists()
    monkeypatch.setattr(onnx_export, "LARGE_GRAPH", 2**12)
    assert export_graph(layers, [x], (["x"], ["y"]), free, path, precision) == count
    assert path.stat().st_size < 8_000
    check_external_data(path, listed=True)
    with pytest.raises(BundleError, match="no checksum covers"):
        check_external_data(path, listed=False)
    np.testing.assert_array_equal(_run(path, x=x)[0], whole)
    monkeypatch.undo()
    export_graph(layers, [x], (["x"], ["y"]), free, path, precision)
    assert [found.name for found in tmp_path.iterdir()] == ["layers.onnx"]


def test_vocoder_and_duration_graphs_take_any_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vocoder, durations = UnitVocoder(VOCODER).eval(), DurationPredictor(VOCODER).eval()
    export_vocoder(TrainedVoice(vocoder, durations, None), tmp_path, "fp32")
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
