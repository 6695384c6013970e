"""Published ViT-VQGAN, `tokenizer.ckpt` and `codebook.ckpt` -> our VitVqgan (docs/reference-formats.md)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from im2sp.train.convert.checkpoints import StateDict, as_tensor, read_checkpoint, read_state_dict, state_dict_of
from im2sp.train.convert.published import count_blocks, plain, whole_shape, with_weights
from im2sp.train.convert.unpickling import AttributeBag, CheckpointError
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig

HEAD_WIDTH = 64  # of every published size; no shape in a checkpoint tells it
MOST_CODES = 65_536  # so that a unit fits 16 bits
PARTS = ("encoder.", "decoder.", "pre_quant.", "post_quant.")  # all else in a file served its training
LAYER = "encoder.transformer.layers.0"


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
    state = {name: tensor for name, tensor in state.items() if name.startswith(PARTS)}
    config = _sizes(state, codebook, path)
    return with_weights(lambda: VitVqgan(config), state | {"codebook.weight": codebook}, path)


def read_codebook(path: Path) -> Tensor:
    """Read a codebook float32 [N, code_width] from a file that holds one matrix, by itself or under one name.

    Raises:
        CheckpointError: there is no such matrix.
    """
    value = read_checkpoint(path)
    if isinstance(value, AttributeBag):
        value = state_dict_of(value, path)
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    rows = as_tensor(value)
    if rows is None or rows.ndim != 2 or not rows.is_floating_point() or not 2 <= len(rows) <= MOST_CODES:
        raise CheckpointError(
            f"{path} holds no codebook of 2 to {MOST_CODES} rows: give the codebook.ckpt that belongs to the tokenizer"
        )
    if not torch.isfinite(rows).all() or (rows == 0).all(1).any():
        raise CheckpointError(f"{path} has rows that are no directions (zero, or not numbers): get the file again")
    return plain(rows)


def _sizes(state: StateDict, codebook: Tensor, path: Path) -> VitVqganConfig:
    """Sizes as the shapes tell them. `with_weights` checks that all others agree."""
    width, _, patch, _ = whole_shape(state, "encoder.to_patch_embedding.0.weight", 4, path)
    units = whole_shape(state, "encoder.en_pos_embedding", 3, path)[1]
    inner, grid = whole_shape(state, f"{LAYER}.0.fn.to_qkv.weight", 2, path)[0] // 3, math.isqrt(units)
    if grid**2 != units or inner % HEAD_WIDTH or width % 4:
        raise CheckpointError(
            f"{path} has {units} positions, attention of width {inner} and width {width}, where im2sp reads square "
            f"grids, heads of {HEAD_WIDTH} and widths of whole fours: give a ViT-VQGAN as published"
        )
    return VitVqganConfig(
        image_size=grid * patch,
        patch=patch,
        width=width,
        layers=count_blocks(state, "encoder.transformer.layers.", path),
        heads=inner // HEAD_WIDTH,
        head_width=HEAD_WIDTH,
        feed_forward=whole_shape(state, f"{LAYER}.1.fn.net.0.weight", 2, path)[0],
        code_width=codebook.shape[1],
        codebook_size=len(codebook),
        decoder_layers=count_blocks(state, "decoder.transformer.layers.", path),
    )
