"""A published HuBERT and its k-means against transformers and the nearest centre, looked up the plain way."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.cluster import MiniBatchKMeans
from transformers import HubertConfig, HubertForCTC, HubertModel

from im2sp.bundle import SpeechEncoderConfig
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.convert.hubert import PublishedHubert, convert_hubert, read_centres
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.export import export_speech_encoder
from im2sp.train.models.speech_encoder import SpeechEncoder
from tests.train.convert.published_files import run_convert

WIDTH, UNITS, LAYER = 32, 20, 3

CONFIG = HubertConfig(  # the base model's layout at a small size: same convolutions, same options
    hidden_size=WIDTH,
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


def write_published(model: HubertModel, folder: Path, weights: str = "pytorch_model.bin") -> Path:
    """The folder as the hub has it: old names of weight norm in a pickle, or safetensors."""
    model.save_pretrained(folder)
    if weights == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        state = {}
        for name, tensor in model.state_dict().items():
            for new, old in names.items():
                name = name.replace(new, old)
            state[name] = tensor
        assert "encoder.pos_conv_embed.conv.weight_g" in {name.removeprefix("hubert.") for name in state}
        torch.save(state, folder / weights)
    return folder


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
def test_features_and_units_equal_the_plain_way(
    hubert: HubertModel,
    kmeans: MiniBatchKMeans,
    waveform: torch.Tensor,
    features: np.ndarray,
    weights: str,
    tmp_path: Path,
) -> None:
    joblib.dump(kmeans, tmp_path / "km.bin")
    encoder = convert_hubert(write_published(hubert, tmp_path / "hubert", weights), tmp_path / "km.bin", LAYER)
    assert (encoder.padding, encoder.smoothing, encoder.mfcc, encoder.units) == (0, 1, None, UNITS)
    with torch.inference_mode():
        found, units = encoder.features(waveform)[0].numpy(), encoder(waveform)[0].numpy()
    assert np.abs(found - features).max() < 1e-5
    distances = np.linalg.norm(features[:, None] - kmeans.cluster_centers_[None], axis=-1)
    np.testing.assert_array_equal(units, distances.argmin(1))
    np.testing.assert_array_equal(units, kmeans.predict(features))
    assert len(set(units.tolist())) > UNITS // 2


def test_recognisers_lose_their_head(hubert: HubertModel, kmeans: MiniBatchKMeans, tmp_path: Path) -> None:
    recogniser = HubertForCTC(CONFIG)
    recogniser.hubert.load_state_dict(hubert.state_dict())
    joblib.dump(kmeans, tmp_path / "km.bin")
    encoder = convert_hubert(write_published(recogniser, tmp_path / "hubert"), tmp_path / "km.bin", LAYER)
    assert torch.equal(encoder.hubert.masked_spec_embed, hubert.masked_spec_embed)


def test_graph_gives_the_same_units(
    hubert: HubertModel, kmeans: MiniBatchKMeans, waveform: torch.Tensor, features: np.ndarray, tmp_path: Path
) -> None:
    import onnxruntime

    joblib.dump(kmeans, tmp_path / "km.bin")
    encoder = convert_hubert(write_published(hubert, tmp_path / "hubert"), tmp_path / "km.bin", LAYER)
    export_speech_encoder(encoder, tmp_path, "fp32")
    session = onnxruntime.InferenceSession(str(tmp_path / "speech_encoder.onnx"), providers=["CPUExecutionProvider"])
    (units,) = session.run(None, {"waveform": waveform.numpy()})
    np.testing.assert_array_equal(units[0], kmeans.predict(features))
    (short,) = session.run(None, {"waveform": waveform[:, :400].numpy()})
    assert short.shape == (1, 1)


@pytest.mark.parametrize(
    "name", ["km.npy", "km.safetensors", "km.pt", "km.pkl", "km.joblib", "km.npz", "many.npz", "dict.pt"]
)
def test_centres_come_as_arrays_too(kmeans: MiniBatchKMeans, name: str, tmp_path: Path) -> None:
    centres, path = kmeans.cluster_centers_.astype(np.float32), tmp_path / name
    if name.endswith("npy"):
        np.save(path, centres)
    elif name == "dict.pt":  # as public repositories have it
        torch.save({"n_features_in_": 32, "_n_threads": 4, "cluster_centers_": torch.from_numpy(centres)}, path)
    elif name == "many.npz":
        np.savez(path, cluster_centers_=centres, counts=np.arange(3))
    elif name.endswith("npz"):
        np.savez_compressed(path, centres)
    elif name.endswith("pt"):
        torch.save(torch.from_numpy(centres), path)
    elif name.endswith("pkl"):
        centres.dump(path)
    elif name.endswith("joblib"):
        joblib.dump(centres, path)
    else:
        save_file({"cluster_centers_": centres}, path)
    np.testing.assert_array_equal(read_centres(path), centres)


def test_the_command_writes_what_the_stages_read(
    hubert: HubertModel, kmeans: MiniBatchKMeans, waveform: torch.Tensor, features: np.ndarray, tmp_path: Path
) -> None:
    folder = write_published(hubert, tmp_path / "hubert")
    joblib.dump(kmeans, tmp_path / "km.bin")
    words = ["hubert", folder, "--clusters", tmp_path / "km.bin", "--layer", LAYER, "-o", tmp_path / "encoder"]
    result = run_convert(*words)
    assert f"{UNITS} units from layer {LAYER}" in result.output
    with torch.inference_mode():
        units = SpeechEncoder.load(tmp_path / "encoder")(waveform)[0].numpy()
    np.testing.assert_array_equal(units, kmeans.predict(features))
    assert "exists already" in str(run_convert(*words).exception)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_type": "wav2vec2"}, "model_type"),
        ({"do_stable_layer_norm": True}, "normalised waveforms"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 4]}, "320 samples apart"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 6}, r"lacks encoder\.layers\.5\.\S+ and 15 more"),
        ({"num_hidden_layers": 4}, r"unknown 'encoder\.layers\.4\.\S+ and 15 more"),
        ({"intermediate_size": 64}, "of shape"),
        ({"hidden_size": 65_536}, "features of 65536"),
    ],
)
def test_configs_that_do_not_fit_are_refused(
    hubert: HubertModel, kmeans: MiniBatchKMeans, change: dict[str, object], why: str, tmp_path: Path
) -> None:
    folder = write_published(hubert, tmp_path / "hubert")
    joblib.dump(kmeans, tmp_path / "km.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=why):
        convert_hubert(folder, tmp_path / "km.bin", LAYER)


def test_other_mistakes_are_said(hubert: HubertModel, kmeans: MiniBatchKMeans, tmp_path: Path) -> None:
    folder = write_published(hubert, tmp_path / "hubert")
    joblib.dump(kmeans, tmp_path / "km.bin")
    with pytest.raises(CheckpointError, match="layer 6 does not exist"):
        convert_hubert(folder, tmp_path / "km.bin", 6)
    joblib.dump({"a": 1, "b": 2}, tmp_path / "other.bin")
    with pytest.raises(CheckpointError, match="no k-means centres"):
        convert_hubert(folder, tmp_path / "other.bin", LAYER)
    (tmp_path / "km.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(CheckpointError, match="is damaged"):
        convert_hubert(folder, tmp_path / "km.npy", LAYER)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors or pytorch_model\.bin"):
        convert_hubert(folder, tmp_path / "km.bin", LAYER)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        convert_hubert(folder, tmp_path / "km.bin", LAYER)


def test_the_defaults_are_the_sizes_of_the_base_model() -> None:
    published, theirs = PublishedHubert(model_type="hubert").model_dump(), HubertConfig().to_dict()
    for name, value in published.items():
        assert (list(value) if isinstance(value, tuple) else value) == (
            list(theirs[name]) if isinstance(theirs[name], tuple) else theirs[name]
        )
    assert inspect.signature(convert_hubert).parameters["layer"].default == 6
    assert SpeechEncoderConfig(units=200).samples_limit == 100 * SAMPLE_RATE


def test_a_checkpoint_of_fairseq_is_named(kmeans: MiniBatchKMeans, tmp_path: Path) -> None:
    path = tmp_path / "hubert_base_ls960.pt"
    model = {
        "mask_emb": torch.zeros(32),
        "label_embs_concat": torch.zeros(504, 32),
        "post_extract_proj.bias": torch.ones(32),
    }
    torch.save({"args": None, "cfg": {"_name": "hubert"}, "model": model}, path)
    np.save(tmp_path / "km.npy", kmeans.cluster_centers_.astype(np.float32))
    for given in (path, tmp_path):
        with pytest.raises(CheckpointError, match=r"layout of fairseq.* the folder of facebook/hubert-base-ls960"):
            convert_hubert(given, tmp_path / "km.npy")
