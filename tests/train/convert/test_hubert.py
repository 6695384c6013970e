"""A published HuBERT and its k-means against transformers and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from transformers import HubertConfig, HubertModel

from im2sp.bundle import SpeechEncoderConfig
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.convert.hubert import PublishedHubert, convert_hubert
from im2sp.train.convert.published import WEIGHT_NORM, renamed
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.export import export_speech_encoder
from im2sp.train.models.speech_encoder import SpeechEncoder
from tests.train.convert.published_files import run_convert

UNITS, LAYER = 20, 3

CONFIG = HubertConfig(  # the base model's layout at a small size: same convolutions, same options
    hidden_size=32,
    num_hidden_layers=5,
    num_attention_heads=4,
    intermediate_size=48,
    conv_dim=(24,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
)


@pytest.fixture(scope="module")
def hubert() -> HubertModel:
    torch.manual_seed(0)
    model = HubertModel(CONFIG).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" not in name:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def waveform() -> torch.Tensor:
    return torch.randn(1, SAMPLE_RATE, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.fixture(scope="module")
def features(hubert: HubertModel, waveform: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return hubert(waveform, output_hidden_states=True).hidden_states[LAYER][0].numpy()


@pytest.fixture(scope="module")
def kmeans(features: np.ndarray) -> MiniBatchKMeans:
    return MiniBatchKMeans(UNITS, n_init=1, random_state=0).fit(features)


@pytest.fixture
def files(hubert: HubertModel, kmeans: MiniBatchKMeans, tmp_path: Path) -> tuple[Path, Path]:
    """The folder as the hub has it, with old names of weight norm in a pickle, and the k-means file."""
    folder = tmp_path / "hubert"
    hubert.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(renamed(hubert.state_dict(), WEIGHT_NORM), folder / "pytorch_model.bin")
    joblib.dump(kmeans, tmp_path / "km.bin")
    return folder, tmp_path / "km.bin"


def test_features_units_and_graph_equal_transformers_and_scikit_learn(
    files: tuple[Path, Path], kmeans: MiniBatchKMeans, waveform: torch.Tensor, features: np.ndarray, tmp_path: Path
) -> None:
    words = ["hubert", files[0], "--clusters", files[1], "--layer", LAYER, "-o", tmp_path / "encoder"]
    result = run_convert(*words)
    assert f"{UNITS} units from layer {LAYER}" in result.output
    assert "exists already" in str(run_convert(*words).exception)
    encoder = SpeechEncoder.load(tmp_path / "encoder")
    assert (encoder.padding, encoder.smoothing, encoder.mfcc, encoder.units) == (0, 1, None, UNITS)
    expected = kmeans.predict(features)
    with torch.inference_mode():
        assert np.abs(encoder.features(waveform)[0].numpy() - features).max() < 1e-5
        np.testing.assert_array_equal(encoder(waveform)[0].numpy(), expected)
    assert len(set(expected.tolist())) > UNITS // 2
    export_speech_encoder(encoder, tmp_path, "fp32")
    session = onnxruntime.InferenceSession(str(tmp_path / "speech_encoder.onnx"), providers=["CPUExecutionProvider"])
    (units,) = session.run(None, {"waveform": waveform.numpy()})
    np.testing.assert_array_equal(units[0], expected)
    (short,) = session.run(None, {"waveform": waveform[:, :400].numpy()})
    assert short.shape == (1, 1)


def test_safetensors_are_read_too(hubert: HubertModel, files: tuple[Path, Path], tmp_path: Path) -> None:
    hubert.save_pretrained(tmp_path / "safe")
    encoder = convert_hubert(tmp_path / "safe", files[1], LAYER)
    assert torch.equal(encoder.hubert.masked_spec_embed, hubert.masked_spec_embed)


def test_other_mistakes_are_said(files: tuple[Path, Path], tmp_path: Path) -> None:
    folder, clusters = files
    with pytest.raises(CheckpointError, match="layer 6 does not exist"):
        convert_hubert(folder, clusters, 6)
    joblib.dump({"a": 1, "b": 2}, tmp_path / "other.bin")
    with pytest.raises(CheckpointError, match="no k-means centres"):
        convert_hubert(folder, tmp_path / "other.bin", LAYER)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors or pytorch_model\.bin"):
        convert_hubert(folder, clusters, LAYER)
    for given in (tmp_path, clusters):  # fairseq's own is one file
        with pytest.raises(CheckpointError, match=r"has no config\.json: .* folder .*facebook/hubert-base-ls960"):
            convert_hubert(given, clusters, LAYER)


def test_the_defaults_are_the_sizes_of_the_base_model() -> None:
    theirs = HubertConfig().to_dict()
    for name, value in PublishedHubert(model_type="hubert").model_dump().items():
        assert value == (tuple(theirs[name]) if isinstance(value, tuple) else theirs[name])
    assert SpeechEncoderConfig(units=200).samples_limit == 100 * SAMPLE_RATE
