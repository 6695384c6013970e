"""A small ViT-VQGAN in the published layout, and its formulas once more in numpy, in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from im2sp.train.models.vit_vqgan import VitVqganConfig

Array = npt.NDArray[np.float64]
State = dict[str, Tensor]

CONFIG = VitVqganConfig(
    image_size=24, patch=4, width=16, layers=2, heads=2, feed_forward=24, code_width=8, codebook_size=50,
    decoder_layers=1,
)  # fmt: skip
WITHOUT_DECODER = replace(CONFIG, decoder_layers=0)


def published_state(config: VitVqganConfig = CONFIG) -> State:
    """Random weights under every published name, by hand: nothing here asks our model."""
    random = torch.Generator().manual_seed(0)
    state: State = {}

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, generator=random) / math.sqrt(inputs) * 1.5
        if bias:
            state[f"{name}.bias"] = torch.randn(outputs, generator=random) * 0.2

    def norm(name: str) -> None:
        state[f"{name}.weight"] = 1 + 0.3 * torch.randn(config.width, generator=random)
        state[f"{name}.bias"] = 0.3 * torch.randn(config.width, generator=random)

    def transformer(name: str, layers: int) -> None:
        inner = config.heads * config.head_width
        for layer in range(layers):
            first, second = f"{name}.layers.{layer}.0", f"{name}.layers.{layer}.1"
            norm(f"{first}.norm")
            linear(f"{first}.fn.to_qkv", config.width, 3 * inner, bias=False)
            linear(f"{first}.fn.to_out", inner, config.width)
            norm(f"{second}.norm")
            linear(f"{second}.fn.net.0", config.width, config.feed_forward)
            linear(f"{second}.fn.net.2", config.feed_forward, config.width)
        norm(f"{name}.norm")

    side = config.patch
    positions = torch.from_numpy(sine_cosine(config.width, config.grid)[None]).float()
    state["encoder.to_patch_embedding.0.weight"] = torch.randn(config.width, 3, side, side, generator=random) * 0.4
    state["encoder.to_patch_embedding.0.bias"] = torch.randn(config.width, generator=random) * 0.2
    state["encoder.en_pos_embedding"] = positions
    transformer("encoder.transformer", config.layers)
    linear("pre_quant", config.width, config.code_width)
    if config.decoder_layers:
        linear("post_quant", config.code_width, config.width)
        state["decoder.de_pos_embedding"] = positions.clone()
        transformer("decoder.transformer", config.decoder_layers)
        state["decoder.to_pixel.1.weight"] = torch.randn(config.width, 3, side, side, generator=random) * 0.05
        state["decoder.to_pixel.1.bias"] = torch.full((3,), 0.5)
    return state


def published_codebook(config: VitVqganConfig = CONFIG) -> Tensor:
    """Rows of very different lengths, so that forgetting to normalise them shows."""
    random = torch.Generator().manual_seed(1)
    rows = torch.randn(config.codebook_size, config.code_width, generator=random)
    return rows * torch.rand(config.codebook_size, 1, generator=random) * 5


def sine_cosine(width: int, grid: int) -> Array:
    """[grid * grid, width], one number at a time."""
    found, quarter = np.zeros((grid * grid, width)), width // 4
    for row in range(grid):
        for column in range(grid):
            for half, place in enumerate((column, row)):
                for k in range(quarter):
                    angle = place / 10000 ** (k / quarter)
                    found[row * grid + column, half * 2 * quarter + k] = math.sin(angle)
                    found[row * grid + column, half * 2 * quarter + quarter + k] = math.cos(angle)
    return found


def of(state: State, name: str) -> Array:
    """A tensor in float64."""
    return state[name].double().numpy()


def layer_norm(state: State, name: str, x: Array, eps: float) -> Array:
    """LayerNorm over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * of(state, f"{name}.weight") + of(state, f"{name}.bias")


def affine(state: State, name: str, x: Array) -> Array:
    """A linear layer."""
    bias = of(state, f"{name}.bias") if f"{name}.bias" in state else 0.0
    return np.einsum("...i,oi->...o", x, of(state, f"{name}.weight")) + bias


def attention(fused: Array, heads: int) -> Array:
    """Fused queries, keys and values [B, N, 3 * inner] -> [B, N, inner], one head after the other."""
    inner = fused.shape[-1] // 3
    width = inner // heads
    found = []
    for head in range(heads):
        query, key, value = (
            fused[..., part * inner + head * width : part * inner + (head + 1) * width] for part in range(3)
        )
        scores = np.einsum("bqd,bkd->bqk", query, key) / math.sqrt(width)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        found.append(np.einsum("bqk,bkd->bqd", shares / shares.sum(-1, keepdims=True), value))
    return np.concatenate(found, -1)


def transformer(state: State, name: str, x: Array, layers: int, heads: int) -> Array:
    """Pre-norm layers with tanh, and a last norm."""
    for layer in range(layers):
        first, second = f"{name}.layers.{layer}.0", f"{name}.layers.{layer}.1"
        fused = affine(state, f"{first}.fn.to_qkv", layer_norm(state, f"{first}.norm", x, 1e-5))
        x = x + affine(state, f"{first}.fn.to_out", attention(fused, heads))
        hidden = np.tanh(affine(state, f"{second}.fn.net.0", layer_norm(state, f"{second}.norm", x, 1e-5)))
        x = x + affine(state, f"{second}.fn.net.2", hidden)
    return layer_norm(state, f"{name}.norm", x, 1e-5)


def before_codes(state: State, pixels: Array, config: VitVqganConfig = CONFIG) -> Array:
    """Pixels [B, 3, H, W] -> what is quantised [B, units, code_width]."""
    grid, side = config.grid, config.patch
    patches = pixels.reshape(len(pixels), 3, grid, side, grid, side)
    x = np.einsum("bcyixj,ocij->byxo", patches, of(state, "encoder.to_patch_embedding.0.weight"))
    x = x.reshape(len(pixels), grid * grid, -1) + of(state, "encoder.to_patch_embedding.0.bias")
    x = x + sine_cosine(config.width, grid)
    x = transformer(state, "encoder.transformer", x, config.layers, config.heads)
    return affine(state, "pre_quant", x)


def units(vectors: Array, codebook: Array) -> npt.NDArray[np.int64]:
    """The nearest row by distance, both sides of length 1."""
    ours = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    rows = codebook / np.linalg.norm(codebook, axis=-1, keepdims=True)
    return ((ours[..., None, :] - rows) ** 2).sum(-1).argmin(-1)


def decoded(state: State, codebook: Array, found: npt.NDArray[np.int64], config: VitVqganConfig = CONFIG) -> Array:
    """Units [B, N] -> pixels [B, 3, H, W] in [0, 1]."""
    grid, side = config.grid, config.patch
    rows = codebook[found]
    rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    x = affine(state, "post_quant", rows) + sine_cosine(config.width, grid)
    x = transformer(state, "decoder.transformer", x, config.decoder_layers, config.heads)
    x = x.reshape(len(x), grid, grid, -1)
    patches = np.einsum("byxc,coij->boyixj", x, of(state, "decoder.to_pixel.1.weight"))
    pixels = patches.reshape(len(x), 3, grid * side, grid * side)
    return np.clip(pixels + of(state, "decoder.to_pixel.1.bias")[:, None, None], 0, 1)
