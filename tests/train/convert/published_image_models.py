"""ViT-VQGAN and SeiT in their published layouts, made of transformers' ViT with random weights in float64."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel

from im2sp.train.convert.published import renamed
from im2sp.train.models.token_vit import TokenVitConfig
from im2sp.train.models.vit_vqgan import VitVqganConfig

State = dict[str, Tensor]

VIT_VQGAN = VitVqganConfig(
    image_size=24, patch=4, width=128, layers=2, heads=2, feed_forward=24, code_width=8, codebook_size=50,
    decoder_layers=1,
)  # fmt: skip
TOKEN_VIT = TokenVitConfig(code_width=8, crop=4, width=128, layers=2, heads=2, feed_forward=32)


def vit(config: VitVqganConfig | TokenVitConfig, layers: int, **options: Any) -> ViTModel:
    """Pre-norm layers, with the embeddings before them and the norm behind them."""
    sizes = {"hidden_size": config.width, "num_attention_heads": config.heads, "intermediate_size": config.feed_forward}
    return ViTModel(ViTConfig(num_hidden_layers=layers, **sizes, **options), add_pooling_layer=False)


class Reference(nn.Module):
    """A published model. `names`: {part of a name here: in the published file}."""

    names: ClassVar[dict[str, str]]

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)

    def randomise(self) -> None:
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 1:
                    parameter.normal_(std=0.3).add_(0.0 if name.endswith("bias") else 1.0)
                else:
                    parameter.normal_(std=1.2 / math.sqrt(parameter[0].numel()))
        self.double().eval().requires_grad_(False)

    def published(self) -> State:
        """Weights under the published names; queries, keys and values are one matrix."""
        found: dict[str, list[Tensor]] = {}
        for name, tensor in self.state_dict().items():
            for part in "qkv":
                name = name.replace(f".{part}_proj.", ".qkv.")
            found.setdefault(name, []).append(tensor.float())
        return renamed(
            {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in found.items()}, self.names
        )


class VitVqganReference(Reference):
    """ViT-VQGAN with its codebook."""

    names: ClassVar = {
        "patches.": "encoder.to_patch_embedding.0.", "pixels.": "decoder.to_pixel.1.",
        "coder.layers.": "coder.transformer.layers.", "coder.layernorm.": "coder.transformer.norm.",
        "layernorm_before": "0.norm", "attention.qkv": "0.fn.to_qkv", "attention.o_proj": "0.fn.to_out",
        "layernorm_after": "1.norm", "mlp.fc1": "1.fn.net.0", "mlp.fc2": "1.fn.net.2",
    }  # fmt: skip

    def __init__(self, config: VitVqganConfig) -> None:
        super().__init__(0)
        self.config, width, patch = config, config.width, config.patch
        options = {"hidden_act": "tanh", "qkv_bias": False, "layer_norm_eps": 1e-5}
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.encoder, self.decoder = (vit(config, n, **options) for n in (config.layers, config.decoder_layers))
        self.encoder.embeddings = self.decoder.embeddings = nn.Identity()
        self.pre_quant, self.post_quant = nn.Linear(width, config.code_width), nn.Linear(config.code_width, width)
        self.pixels = nn.ConvTranspose2d(width, 3, patch, patch)
        self.randomise()
        self.patches.weight.mul_(8)  # so that units differ
        self.pixels.weight.mul_(0.1)
        self.pixels.bias.fill_(0.5)
        self.positions = sine_cosine(config.grid, width)
        self.pre_quant.bias.sub_(self.encode(torch.rand(9, 3, config.image_size, config.image_size)).mean((0, 1)))
        # Rows of very different lengths, so that forgetting to normalise them shows.
        self.codes = torch.randn(config.codebook_size, config.code_width) * torch.rand(config.codebook_size, 1) * 5
        self.directions = F.normalize(self.codes.double(), dim=-1)

    def published(self) -> State:
        """tokenizer.ckpt."""
        positions = self.positions.float()
        fixed = {"encoder.en_pos_embedding": positions, "decoder.de_pos_embedding": positions.clone()}
        return super().published() | fixed

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] -> what is quantised, float64 [B, units, code_width]."""
        x = self.patches(pixels.double()).flatten(2).transpose(1, 2) + self.positions
        found: Tensor = self.pre_quant(through(self.encoder, x))
        return found

    def units(self, pixels: Tensor) -> Tensor:
        """Units int64 [B, N]: the row of the codebook at the least distance, both of length 1."""
        vectors = F.normalize(self.encode(pixels), dim=-1)
        return torch.cdist(vectors, self.directions.expand(len(vectors), -1, -1)).argmin(-1)

    def decode(self, units: Tensor) -> Tensor:
        """Units [B, N] -> pixels float64 [B, 3, H, W] in [0, 1]."""
        grid = self.config.grid
        x = through(self.decoder, self.post_quant(self.directions[units]) + self.positions)
        pixels: Tensor = self.pixels(x.transpose(1, 2).unflatten(2, (grid, grid)))
        return pixels.clamp(0, 1)


def through(model: ViTModel, x: Tensor) -> Tensor:
    """What all layers and the last norm make of tokens [B, N, width]."""
    for layer in model.layers:
        x = layer(x)
    normed: Tensor = model.layernorm(x)
    return normed


def sine_cosine(grid: int, width: int) -> Tensor:
    """float64 [1, grid * grid, width], one number at a time."""
    found, quarter = np.zeros((1, grid * grid, width)), width // 4
    for place in np.ndindex(grid, grid):
        for half, position in enumerate(reversed(place)):  # the column first
            for k in range(quarter):
                angle = position / 10000 ** (k / quarter)
                at = 0, place[0] * grid + place[1], 2 * half * quarter + k
                found[at], found[at[0], at[1], at[2] + quarter] = math.sin(angle), math.cos(angle)
    return torch.from_numpy(found)


class TokenVitReference(Reference):
    """SeiT: a ViT whose patches are a convolution over codebook vectors, with a head on top."""

    names: ClassVar = {
        "vit.embeddings.patch_embeddings.projection.": "patch_embed.proj.", "vit.embeddings.cls_token": "cls_token",
        "vit.embeddings.position_embeddings": "pos_embed", "vit.layers.": "blocks.", "vit.layernorm.": "norm.",
        "layernorm_before": "norm1", "attention.qkv": "attn.qkv", "attention.o_proj": "attn.proj",
        "layernorm_after": "norm2",
    }  # fmt: skip

    def __init__(self, config: TokenVitConfig) -> None:
        super().__init__(4)
        sizes = {"image_size": config.crop, "patch_size": 2, "num_channels": config.code_width}
        self.vit = vit(config, config.layers, layer_norm_eps=1e-6, **sizes)
        self.vit.embeddings.patch_embeddings.projection = nn.Conv2d(config.code_width, config.width, 4, 2, 1)
        self.head = nn.Linear(config.width, 7)
        self.randomise()

    def forward(self, vectors: Tensor) -> Tensor:
        """Codebook vectors [B, code_width, crop, crop] -> [B, image_tokens, width], without the last norm."""
        features: Tensor = self.vit(vectors, output_hidden_states=True).hidden_states[-1]
        return features


@cache
def vit_vqgan() -> VitVqganReference:
    """A small ViT-VQGAN, always the same."""
    return VitVqganReference(VIT_VQGAN)


@cache
def token_vit() -> TokenVitReference:
    """A small SeiT, always the same."""
    return TokenVitReference(TOKEN_VIT)
