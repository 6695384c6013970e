"""Small unit HiFi-GANs in the published layout, for several tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.tiny_bundle import UNITS

CONFIG: dict[str, Any] = {  # the published config at a small size, with keys that we do not need
    "num_embeddings": UNITS,
    "embedding_dim": 8,
    "model_in_dim": 8,
    "upsample_rates": [5, 4, 4, 2, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4, 4],
    "upsample_initial_channel": 64,
    "resblock": "1",
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "dur_predictor_params": {
        "encoder_embed_dim": 8,
        "var_pred_hidden_dim": 12,
        "var_pred_kernel_size": 3,
        "var_pred_dropout": 0.5,
    },
    "code_hop_size": 320,
    "sampling_rate": 16000,
    "segment_size": 8960,
    "lambda_commit": None,
}
MANY_VOICES = CONFIG | {"multispkr": "_", "model_in_dim": 16}
SPEAKERS = 5


def published_state(config: dict[str, Any]) -> dict[str, Tensor]:
    """Random weights under every name of the published checkpoint."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=random) * scale

    state = {"dict.weight": normal(config["num_embeddings"], config["embedding_dim"])}
    if config.get("multispkr"):
        state["spkr.weight"] = normal(SPEAKERS, config["embedding_dim"])

    def convolution(name: str, first: int, second: int, kernel: int, bias: int) -> None:
        state[f"{name}.weight_g"] = normal(first, 1, 1).abs() + 0.5
        state[f"{name}.weight_v"] = normal(first, second, kernel)
        state[f"{name}.bias"] = normal(bias, scale=0.1)

    channels = config["upsample_initial_channel"]
    convolution("conv_pre", channels, config["model_in_dim"], 7, channels)
    blocks = 0
    for stage, kernel in enumerate(config["upsample_kernel_sizes"]):
        convolution(f"ups.{stage}", channels, channels // 2, kernel, channels // 2)
        channels //= 2
        for size, dilations in zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"], strict=True):
            for index in range(len(dilations)):
                for row in ("convs1", "convs2"):
                    convolution(f"resblocks.{blocks}.{row}.{index}", channels, channels, size, channels)
            blocks += 1
    convolution("conv_post", 1, channels, 7, 1)
    sizes = config["dur_predictor_params"]
    inputs, width, kernel = (
        sizes["encoder_embed_dim"], sizes["var_pred_hidden_dim"], sizes["var_pred_kernel_size"]
    )  # fmt: skip
    for index, channels in ((1, inputs), (2, width)):
        state[f"dur_predictor.conv{index}.0.weight"] = normal(width, channels, kernel, scale=0.3)
        state[f"dur_predictor.conv{index}.0.bias"] = normal(width, scale=0.1)
        state[f"dur_predictor.ln{index}.weight"] = normal(width)
        state[f"dur_predictor.ln{index}.bias"] = normal(width)
    state["dur_predictor.proj.weight"] = normal(1, width, scale=0.2)
    state["dur_predictor.proj.bias"] = torch.tensor([1.2])
    return state


def write_published(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"generator": state}, folder / "g_00500000")
    return folder / "config.json", folder / "g_00500000"


def audible(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A last layer that makes random sound audible and keeps tanh away from its limits, where errors could hide."""
    return state | {"conv_post.weight_g": torch.full((1, 1, 1), 0.04), "conv_post.bias": torch.zeros(1)}
