"""Published ViT-VQGAN, `tokenizer.ckpt` and `codebook.ckpt` -> our VitVqgan (reference formats, section 4)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from im2sp.train.convert.checkpoints import read_checkpoint
from im2sp.train.convert.pickles import Record
from im2sp.train.convert.state_dicts import StateDict, as_tensor, state_dict_of
from im2sp.train.convert.streams import CheckpointError
from im2sp.train.convert.weights import counted_blocks, plain, with_weights
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig

HEAD_WIDTH = 64  # of every published size; no shape in a checkpoint tells it
MOST_CODES = 65_536  # so that a unit fits 16 bits
PARTS = ("encoder.", "decoder.", "pre_quant.", "post_quant.")  # all else in a file served its training
PATCHES = "encoder.to_patch_embedding.0.weight"
POSITIONS = "encoder.en_pos_embedding"
QUERIES = "encoder.transformer.layers.0.0.fn.to_qkv.weight"
FEED_FORWARD = "encoder.transformer.layers.0.1.fn.net.0.weight"


def convert_vit_vqgan(tokenizer: Path, codebook: Path) -> VitVqgan:
    """A published image tokenizer with its codebook; with its decoder where the file has one.

    Args:
        tokenizer: a pickled module or a state dict.
        codebook: a tensor [N, code_width].

    Raises:
        CheckpointError: something is missing, damaged, hostile, or does not fit together.
    """
    return vit_vqgan_of(state_dict_of(read_checkpoint(tokenizer), tokenizer), read_codebook(codebook), tokenizer)


def vit_vqgan_of(state: StateDict, codebook: Tensor, path: Path) -> VitVqgan:
    """An image tokenizer out of named tensors. Raises CheckpointError when they are not those of a ViT-VQGAN."""
    state = {name: tensor for name, tensor in state.items() if name.startswith(PARTS)}
    config = _sizes(state, codebook, path)
    return with_weights(lambda: VitVqgan(config), state | {"codebook.weight": codebook}, path)


def read_codebook(path: Path) -> Tensor:
    """Rows of a codebook float32 [N, code_width] out of a file that holds one matrix, by itself or by a name.

    Raises:
        CheckpointError: there is no such matrix.
    """
    value = read_checkpoint(path)
    if isinstance(value, Record):
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
    """The sizes that the shapes tell; that all others agree with them is checked when the weights are loaded."""

    def shape(name: str, sizes: int) -> torch.Size:
        if name not in state or state[name].ndim != sizes or 0 in state[name].shape:
            raise CheckpointError(f"{path} lacks a whole {name}: is it a ViT-VQGAN tokenizer?")
        return state[name].shape

    width, _, patch, _ = shape(PATCHES, 4)
    units, inner, grid = shape(POSITIONS, 3)[1], shape(QUERIES, 2)[0] // 3, math.isqrt(shape(POSITIONS, 3)[1])
    if grid**2 != units or inner % HEAD_WIDTH or width % 4:
        raise CheckpointError(
            f"{path} has {units} positions, attention of width {inner} and width {width}, where im2sp reads square "
            f"grids, heads of {HEAD_WIDTH} and widths of whole fours: give a ViT-VQGAN as published"
        )
    return VitVqganConfig(
        image_size=grid * patch,
        patch=patch,
        width=width,
        layers=counted_blocks(state, "encoder.transformer.layers.", path),
        heads=inner // HEAD_WIDTH,
        head_width=HEAD_WIDTH,
        feed_forward=shape(FEED_FORWARD, 2)[0],
        code_width=codebook.shape[1],
        codebook_size=len(codebook),
        decoder_layers=counted_blocks(state, "decoder.transformer.layers.", path),
    )
