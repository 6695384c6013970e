"""A published HuBERT and its k-means against transformers and scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
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
    hidden_size=32, num_hidden_layers=5, num_attention_heads=4, intermediate_size=48, conv_dim=(24,) * 7,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """The folder as the hub has it, with old names of weight norm in a pickle, the k-means file, and what they make."""

    folder: Path
    clusters: Path
    hubert: HubertModel
    waveform: torch.Tensor
    features: np.ndarray
    units: np.ndarray


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    torch.manual_seed(0)
    hubert = HubertModel(CONFIG).eval()
    waveform = torch.randn(1, SAMPLE_RATE) * 0.1
    with torch.no_grad():
        for name, parameter in hubert.named_parameters():
            if "layer_norm" not in name:
                parameter.normal_(std=0.3)
        features = hubert(waveform, output_hidden_states=True).hidden_states[LAYER][0].numpy()
    kmeans = MiniBatchKMeans(UNITS, n_init=1, random_state=0).fit(features)
    folder, clusters = tmp_path_factory.mktemp("hubert"), tmp_path_factory.mktemp("clusters") / "km.bin"
    hubert.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(renamed(hubert.state_dict(), WEIGHT_NORM), folder / "pytorch_model.bin")
    joblib.dump(kmeans, clusters)
    return Published(folder, clusters, hubert, waveform, features, kmeans.predict(features))


def test_features_units_and_graph_equal_transformers_and_scikit_learn(published: Published, tmp_path: Path) -> None:
    words = ["hubert", published.folder, "--clusters", published.clusters, "--layer", LAYER, "-o", tmp_path / "encoder"]
    assert f"{UNITS} units from layer {LAYER}" in run_convert(*words).output
    assert "exists already" in str(run_convert(*words).exception)
    encoder = SpeechEncoder.load(tmp_path / "encoder")
    assert (encoder.padding, encoder.smoothing, encoder.mfcc, encoder.units) == (0, 1, None, UNITS)
    waveform, expected = published.waveform, published.units
    with torch.inference_mode():
        assert np.abs(encoder.features(waveform)[0].numpy() - published.features).max() < 1e-5
        np.testing.assert_array_equal(encoder(waveform)[0].numpy(), expected)
    assert len(set(expected.tolist())) > UNITS // 2
    export_speech_encoder(encoder, tmp_path, "fp32")
    session = onnxruntime.InferenceSession(str(tmp_path / "speech_encoder.onnx"), providers=["CPUExecutionProvider"])
    (units,) = session.run(None, {"waveform": waveform.numpy()})
    np.testing.assert_array_equal(units[0], expected)
    (short,) = session.run(None, {"waveform": waveform[:, :400].numpy()})
    assert short.shape == (1, 1)


def test_safetensors_are_read_too(published: Published, tmp_path: Path) -> None:
    published.hubert.save_pretrained(tmp_path)
    encoder = convert_hubert(tmp_path, published.clusters, LAYER)
    assert torch.equal(encoder.hubert.masked_spec_embed, published.hubert.masked_spec_embed)


def test_other_mistakes_are_said(published: Published, tmp_path: Path) -> None:
    folder, clusters = published.folder, published.clusters
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    joblib.dump({"a": 1, "b": 2}, tmp_path / "other.bin")
    for given, kmeans, layer, why in (
        (folder, clusters, 6, "layer 6 does not exist"),
        (folder, tmp_path / "other.bin", LAYER, "no k-means centres"),
        (tmp_path, clusters, LAYER, r"no model\.safetensors or pytorch_model\.bin"),
        (tmp_path / "none", clusters, LAYER, r"has no config\.json: .* folder .*facebook/hubert-base-ls960"),
        (clusters, clusters, LAYER, r"has no config\.json: .* folder"),  # fairseq's own is one file
    ):
        with pytest.raises(CheckpointError, match=why):
            convert_hubert(given, kmeans, layer)


def test_the_defaults_are_the_sizes_of_the_base_model() -> None:
    theirs = HubertConfig().to_dict()
    for name, value in PublishedHubert(model_type="hubert").model_dump().items():
        assert value == (tuple(theirs[name]) if isinstance(value, tuple) else theirs[name])
    assert SpeechEncoderConfig(units=200).samples_limit == 100 * SAMPLE_RATE
