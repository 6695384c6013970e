"""A small SeiT in the published layout, and its formulas once more in numpy, in float64."""

from __future__ import annotations

import math

import numpy as np
import torch

from im2sp.train.models.token_vit import TokenVitConfig
from tests.train.models.published_vit_vqgan import Array, State, affine, attention, layer_norm, of

CONFIG = TokenVitConfig(code_width=8, crop=4, width=128, layers=2, heads=2, feed_forward=32)


def published_state(config: TokenVitConfig = CONFIG) -> State:
    """Random weights under every published name, by hand: nothing here asks our model. With norm and head on top."""
    random = torch.Generator().manual_seed(4)
    width, state = config.width, State()

    def add(name: str, *shape: int, scale: float = 1.0, around: float = 0.0) -> None:
        state[name] = around + scale * torch.randn(*shape, generator=random)

    add("cls_token", 1, 1, width)
    add("pos_embed", 1, (config.crop // 2) ** 2 + 1, width)
    add("patch_embed.proj.weight", width, config.code_width, 4, 4, scale=0.2)
    add("patch_embed.proj.bias", width)
    for block in range(config.layers):
        for norm in ("norm1", "norm2"):
            add(f"blocks.{block}.{norm}.weight", width, scale=0.3, around=1)
            add(f"blocks.{block}.{norm}.bias", width, scale=0.3)
        for name, inputs, outputs in (
            ("attn.qkv", width, 3 * width),
            ("attn.proj", width, width),
            ("mlp.fc1", width, config.feed_forward),
            ("mlp.fc2", config.feed_forward, width),
        ):
            add(f"blocks.{block}.{name}.weight", outputs, inputs, scale=1.5 / math.sqrt(inputs))
            add(f"blocks.{block}.{name}.bias", outputs, scale=0.2)
    add("norm.weight", width, scale=0.3, around=1)
    add("norm.bias", width, scale=0.3)
    add("head.weight", 7, width)
    add("head.bias", 7)
    return state


def encoder_state(config: TokenVitConfig = CONFIG) -> State:
    """The same without norm and head."""
    return {name: part for name, part in published_state(config).items() if not name.startswith(("norm.", "head."))}


def features(state: State, vectors: Array, config: TokenVitConfig = CONFIG) -> Array:
    """Codebook vectors [B, code_width, crop, crop] -> [B, image_tokens, width], without the last norm."""
    padded = np.pad(vectors, ((0, 0), (0, 0), (1, 1), (1, 1)))
    side = config.crop // 2
    weight, bias = of(state, "patch_embed.proj.weight"), of(state, "patch_embed.proj.bias")
    tokens = []
    for row in range(side):
        for column in range(side):
            window = padded[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
            tokens.append(np.einsum("bcij,ocij->bo", window, weight) + bias)
    first = np.broadcast_to(of(state, "cls_token")[:, 0], tokens[0].shape)
    x = np.stack([first, *tokens], 1) + of(state, "pos_embed")
    for block in range(config.layers):
        name = f"blocks.{block}"
        fused = affine(state, f"{name}.attn.qkv", layer_norm(state, f"{name}.norm1", x, 1e-6))
        x = x + affine(state, f"{name}.attn.proj", attention(fused, config.heads))
        hidden = affine(state, f"{name}.mlp.fc1", layer_norm(state, f"{name}.norm2", x, 1e-6))
        erf = torch.erf(torch.from_numpy(hidden / math.sqrt(2))).numpy()
        x = x + affine(state, f"{name}.mlp.fc2", hidden * (1 + erf) / 2)
    return x
