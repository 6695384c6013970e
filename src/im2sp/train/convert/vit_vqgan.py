"""Published ViT-VQGAN, `tokenizer.ckpt` and `codebook.ckpt` -> our VitVqgan (docs/reference-formats.md)."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from im2sp.train.convert.checkpoints import StateDict, read_matrix, read_state_dict
from im2sp.train.convert.published import count_blocks, renamed, whole_shape, with_weights
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig

HEAD_WIDTH = 64  # of every published size; no shape in a checkpoint tells it
MOST_CODES = 65_536  # so that a unit fits 16 bits
PARTS = ("encoder.", "decoder.", "pre_quant.", "post_quant.")  # all else in a file served its training
LAYER_NAMES = {  # parts of a layer: published name, ours
    ".0.norm.": ".norm1.",
    ".0.fn.to_qkv.": ".attn.qkv.",
    ".0.fn.to_out.": ".attn.proj.",
    ".1.norm.": ".norm2.",
    ".1.fn.net.0.": ".mlp.fc1.",
    ".1.fn.net.2.": ".mlp.fc2.",
}
LAYERS = "encoder.transformer.layers."


def convert_vit_vqgan(tokenizer: Path, codebook: Path) -> VitVqgan:
    """Convert a published image tokenizer with its codebook, and with its decoder where the file has one.

    Args:
        tokenizer: a pickled module or a state dict.
        codebook: a tensor [N, code_width].

    Raises:
        CheckpointError: something is missing, damaged, hostile, or does not fit together.
    """
    return vit_vqgan_of(read_state_dict(tokenizer), read_codebook(codebook), tokenizer)


def vit_vqgan_of(state: StateDict, codebook: Tensor, path: Path) -> VitVqgan:
    """Make an image tokenizer of named tensors. Raises CheckpointError when they are not those of a ViT-VQGAN."""
    state = renamed({name: part for name, part in state.items() if name.startswith(PARTS)}, LAYER_NAMES)
    config = _sizes(state, codebook, path)
    return with_weights(lambda: VitVqgan(config), state | {"codebook.weight": codebook}, path)


def read_codebook(path: Path) -> Tensor:
    """Read a codebook float32 [N, code_width], a matrix by itself or under one name.

    Raises:
        CheckpointError: there is none.
    """
    rows = read_matrix(path, "codes of a codebook")
    if not 2 <= len(rows) <= MOST_CODES or (rows == 0).all(1).any():
        raise CheckpointError(f"{path} has no 2 to {MOST_CODES} codes that are directions: get the file again")
    return rows


def _sizes(state: StateDict, codebook: Tensor, path: Path) -> VitVqganConfig:
    """Sizes as the shapes tell them. `with_weights` checks that all others agree."""
    width, _, patch, _ = whole_shape(state, "encoder.to_patch_embedding.0.weight", 4, path)
    units = whole_shape(state, "encoder.en_pos_embedding", 3, path)[1]
    inner, grid = whole_shape(state, f"{LAYERS}0.attn.qkv.weight", 2, path)[0] // 3, math.isqrt(units)
    if grid**2 != units or inner % HEAD_WIDTH or width % 4:
        raise CheckpointError(
            f"{path} has {units} positions, attention of width {inner} and width {width}, where im2sp reads square "
            f"grids, heads of {HEAD_WIDTH} and widths of whole fours: give a ViT-VQGAN as published"
        )
    return VitVqganConfig(
        image_size=grid * patch,
        patch=patch,
        width=width,
        layers=count_blocks(state, LAYERS, path),
        heads=inner // HEAD_WIDTH,
        head_width=HEAD_WIDTH,
        feed_forward=whole_shape(state, f"{LAYERS}0.mlp.fc1.weight", 2, path)[0],
        code_width=codebook.shape[1],
        codebook_size=len(codebook),
        decoder_layers=count_blocks(state, "decoder.transformer.layers.", path),
    )
