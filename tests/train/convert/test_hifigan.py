"""A published unit HiFi-GAN against its formulas computed once more here, then its graphs, then the runtime's voice."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from transformers import SeamlessM4TConfig
from transformers.models.seamless_m4t.modeling_seamless_m4t import SeamlessM4THifiGan, SeamlessM4TVariancePredictor

from im2sp.bundle import Bundle, write_checksums, write_config
from im2sp.errors import Im2SpError
from im2sp.onnx import Graphs
from im2sp.speech.vocoder import Vocoder
from im2sp.train.convert.hifigan import convert_hifigan
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.export import TrainedVoice, export_vocoder
from im2sp.train.models.unit_hifigan import UnitHifigan, UnitHifiganConfig
from tests.tiny_bundle import UNITS
from tests.train.convert.published_hifigan import (
    CONFIG,
    MANY_VOICES,
    audible,
    published_state,
    write_published,
)


def plain_log_durations(state: dict[str, Tensor], units: Tensor) -> Tensor:
    """The formula, straight from the names of the checkpoint: float64 [U]."""
    x = state["dict.weight"].double()[units][None]
    for index in (1, 2):
        weight, bias = (state[f"dur_predictor.conv{index}.0.{kind}"].double() for kind in ("weight", "bias"))
        x = F.relu(F.conv1d(F.pad(x.transpose(1, 2), (1, 1)), weight, bias)).transpose(1, 2)
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5)
        x = x * state[f"dur_predictor.ln{index}.weight"].double() + state[f"dur_predictor.ln{index}.bias"].double()
    return (x @ state["dur_predictor.proj.weight"].double().T + state["dur_predictor.proj.bias"].double())[0, :, 0]


def plain_waveform(config: dict[str, Any], state: dict[str, Tensor], frames: Tensor, speaker: int) -> Tensor:
    """The formula, straight from the names of the checkpoint: float64 [F * 320]."""

    def weight(name: str) -> tuple[Tensor, Tensor]:
        g, v = state[f"{name}.weight_g"].double(), state[f"{name}.weight_v"].double()
        return g * v / torch.sqrt((v**2).sum((1, 2), keepdim=True)), state[f"{name}.bias"].double()

    x = state["dict.weight"].double()[frames].T[None]
    if config.get("multispkr"):
        x = torch.cat([x, state["spkr.weight"].double()[speaker].view(1, -1, 1).repeat(1, 1, len(frames))], 1)
    x = F.conv1d(x, *weight("conv_pre"), padding=3)
    block = 0
    for stage, (rate, kernel) in enumerate(zip(config["upsample_rates"], config["upsample_kernel_sizes"], strict=True)):
        x = F.conv_transpose1d(F.leaky_relu(x, 0.1), *weight(f"ups.{stage}"), stride=rate, padding=(kernel - rate) // 2)
        total = torch.zeros_like(x)
        for size, dilations in zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"], strict=True):
            y = x
            for index, dilation in enumerate(dilations):
                name = f"resblocks.{block}.{{}}.{index}"
                z = F.leaky_relu(y, 0.1)
                z = F.conv1d(z, *weight(name.format("convs1")), dilation=dilation, padding=dilation * (size - 1) // 2)
                z = F.leaky_relu(z, 0.1)
                y = y + F.conv1d(z, *weight(name.format("convs2")), padding=(size - 1) // 2)
            total = total + y
            block += 1
        x = total / len(config["resblock_kernel_sizes"])
    return torch.tanh(F.conv1d(F.leaky_relu(x, 0.01), *weight("conv_post"), padding=3))[0, 0]


@pytest.mark.parametrize(("config", "speaker"), [(CONFIG, 0), (MANY_VOICES, 3)])
def test_waveform_and_durations_equal_the_formulas(config: dict[str, Any], speaker: int, tmp_path: Path) -> None:
    state = audible(published_state(config))
    model = convert_hifigan(*write_published(tmp_path, config, state))
    units = torch.randint(UNITS, (17,), generator=torch.Generator().manual_seed(1))
    expected, durations = plain_waveform(config, state, units, speaker), plain_log_durations(state, units)
    with torch.inference_mode():
        found, log_durations = model(units[None], speaker)[0], model.log_durations(units[None])[0]
    assert found.shape == (17 * 320,)
    assert 0.1 < expected.abs().max() < 0.99
    assert (found - expected).abs().max() < 1e-5
    assert (log_durations - durations).abs().max() < 1e-5
    assert len(torch.exp(durations).round().unique()) > 3
    if config is MANY_VOICES:
        with torch.inference_mode():
            assert (model(units[None], 0)[0] - expected).abs().max() > 1e-3


def test_waveform_and_durations_equal_transformers(tmp_path: Path) -> None:
    """transformers has this vocoder as a part of SeamlessM4T, and weight norm is torch's own."""
    config = CONFIG | {"dur_predictor_params": CONFIG["dur_predictor_params"] | {"var_pred_hidden_dim": 8}}
    state = audible(published_state(config))
    model = convert_hifigan(*write_published(tmp_path, config, state))
    shared = ("upsample_initial_channel", "upsample_rates", "upsample_kernel_sizes")
    settings = SeamlessM4TConfig(
        unit_embed_dim=8, lang_embed_dim=0, spkr_embed_dim=0, **{name: config[name] for name in shared},
        resblock_kernel_sizes=config["resblock_kernel_sizes"],
        resblock_dilation_sizes=config["resblock_dilation_sizes"],
    )  # fmt: skip
    generator, predictor = SeamlessM4THifiGan(settings).eval(), SeamlessM4TVariancePredictor(settings).eval()
    for module in list(generator.modules()):
        if isinstance(module, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
            weight_norm(module)
    names = {"upsampler.": "ups.", "parametrizations.weight.original0": "weight_g"}
    names |= {"parametrizations.weight.original1": "weight_v"}
    for module, prefix in ((generator, ""), (predictor, "dur_predictor.")):
        wanted = {}
        for name in module.state_dict():
            published = prefix + re.sub(r"^(conv\d)", r"\1.0", name)
            for theirs, ours in names.items():
                published = published.replace(theirs, ours)
            wanted[name] = state[published]
        module.load_state_dict(wanted)
    units = torch.randint(UNITS, (1, 17), generator=torch.Generator().manual_seed(1))
    embedded = state["dict.weight"][units]
    with torch.inference_mode():
        assert (model(units)[0] - generator(embedded.transpose(1, 2)).flatten()).abs().max() < 1e-5
        assert (model.log_durations(units) - predictor(embedded)).abs().max() < 1e-5


def test_names_of_torch_s_parametrizations_are_the_same_weights(tmp_path: Path) -> None:
    state = published_state(CONFIG)
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in state.items()
    }
    old, new = (convert_hifigan(*write_published(tmp_path, CONFIG, names)) for names in (state, renamed))
    for one, other in zip(old.state_dict().values(), new.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("config", [UnitHifiganConfig(units=30, width=8, channels=32)])
def test_no_sample_depends_on_frames_beyond_the_context(config: UnitHifiganConfig) -> None:
    torch.manual_seed(0)
    model = UnitHifigan(config).double().eval()
    context = config.context_frames
    middle = context + 2
    frames = torch.randint(config.units, (1, 2 * middle + 1))
    changed = frames.clone()
    changed[0, middle] = (changed[0, middle] + 1) % config.units
    with torch.inference_mode():
        moved = (model(frames) - model(changed))[0].nonzero().flatten()
    assert moved.min() >= (middle - context) * 320
    assert moved.max() < (middle + context + 1) * 320
    # The bound is no larger than it must be by more than a frame.
    assert moved.min() < (middle - context + 2) * 320


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.mark.parametrize(("config", "speaker"), [(CONFIG, 0), (MANY_VOICES, 3)])
def test_graphs_equal_the_model(config: dict[str, Any], speaker: int, tmp_path: Path) -> None:
    model = convert_hifigan(*write_published(tmp_path, config, audible(published_state(config))))
    _, parameters = export_vocoder(TrainedVoice(model, None, None), tmp_path, "fp32", speaker)
    assert set(parameters) == {"vocoder", "duration_predictor"}
    for length in (1, 9, 60):
        units = torch.randint(UNITS, (1, length))
        with torch.inference_mode():
            waveform, durations = model(units, speaker).numpy(), model.log_durations(units).numpy()
        assert np.abs(run(tmp_path / "vocoder.onnx", frames=units.numpy()) - waveform).max() < 1e-5
        assert np.abs(run(tmp_path / "duration_predictor.onnx", units=units.numpy()) - durations).max() < 1e-5


def test_the_runtime_speaks_with_it(tiny_bundle: Path, tmp_path: Path) -> None:
    """Units -> predicted durations -> repeated embeddings -> waveform, in one piece and in several."""
    state = audible(published_state(CONFIG))
    model = convert_hifigan(*write_published(tmp_path, CONFIG, state))
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    vocoder, _ = export_vocoder(TrainedVoice(model, None, None), folder, "fp32")
    write_config(folder, replace(Bundle.load(tiny_bundle).config, vocoder=vocoder))
    write_checksums(folder)
    bundle = Bundle.load(folder)
    Graphs(bundle).check()
    units = torch.tensor([3, 7, 1, 0, 19, 4])
    durations = (plain_log_durations(state, units).exp() - 1).round().clamp(min=1).long()
    expected = plain_waveform(CONFIG, state, units.repeat_interleave(durations), 0)
    voice = Vocoder(Graphs(bundle, threads=1), bundle.config.vocoder)
    speech = voice.speak(units.numpy())
    assert speech.durations.tolist() == durations.tolist()
    assert np.abs(speech.waveform - expected.numpy()).max() < 1e-5


def test_the_published_sizes_are_the_defaults(tmp_path: Path) -> None:
    """At full size only names and shapes are compared: the weights take no memory."""
    with torch.device("meta"):
        model = UnitHifigan(UnitHifiganConfig())
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["dict.weight"] == [200, 128]
    assert shapes["conv_pre.weight"] == [512, 128, 7]
    assert shapes["ups.0.weight"] == [512, 256, 11]
    assert shapes["resblocks.14.convs2.2.weight"] == [16, 16, 11]
    assert shapes["conv_post.weight"] == [1, 16, 7]
    assert shapes["dur_predictor.conv1.0.weight"] == [128, 128, 3]
    assert model.config.hop == 320


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sampling_rate": 22050}, "sampling_rate"),
        ({"code_hop_size": 256}, "code_hop_size"),
        ({"upsample_rates": [5, 4, 4, 2, 1]}, "product of upsample_rates"),
        ({"upsample_kernel_sizes": [10, 8, 8, 4, 4]}, "no whole number of samples"),
        ({"upsample_kernel_sizes": [11, 8, 8, 4]}, "differ in length"),
        ({"resblock": "2"}, "resblock"),
        ({"f0": True}, "pitch beside the units"),
        ({"multispkr": "_"}, "model_in_dim"),
        ({"multispkr": "_", "model_in_dim": 16}, r"lacks spkr\.weight"),
        ({"num_embeddings": 21}, r"has dict\.weight of shape \[20, 8\] where the config asks for \[21, 8\]"),
        ({"resblock_dilation_sizes": [[1, 3], [1, 3], [1, 3]]}, "unknown"),
        ({"upsample_initial_channel": 2**30}, "upsample_initial_channel"),
        ({"dur_predictor_params": None}, "dur_predictor_params"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    config, checkpoint = write_published(tmp_path, CONFIG | change, published_state(CONFIG))
    with pytest.raises(CheckpointError, match=why):
        convert_hifigan(config, checkpoint)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("conv_pre.weight_g", None, r"no conv_pre\.weight_g"),
        ("conv_pre.weight_g", torch.ones(3, 1, 1), r"no conv_pre\.weight_g that fits"),
        ("conv_pre.weight_v", None, r"lacks conv_pre\.weight"),
        ("conv_pre.weight_v", torch.zeros(64, 8, 7), r"not numbers in conv_pre\.weight"),
        ("conv_pre.bias", "text", "has str at 'conv_pre.bias' where a tensor should be"),
        ("f0_quantizer.weight", torch.zeros(2), "unknown 'f0_quantizer.weight'"),
    ],
)
def test_checkpoints_that_are_not_whole_are_refused(name: str, value: object, why: str, tmp_path: Path) -> None:
    state: dict[str, Any] = published_state(CONFIG) | {name: value}
    if value is None:
        del state[name]
    config, checkpoint = write_published(tmp_path, CONFIG, state)
    with pytest.raises(CheckpointError, match=why):
        convert_hifigan(config, checkpoint)


def test_other_mistakes_are_said(tmp_path: Path) -> None:
    config, checkpoint = write_published(tmp_path, CONFIG, published_state(CONFIG))
    with pytest.raises(Im2SpError, match="speaker 1 does not exist"):
        export_vocoder(TrainedVoice(convert_hifigan(config, checkpoint), None, None), tmp_path, "fp32", speaker=1)
    config.write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        convert_hifigan(config, checkpoint)
