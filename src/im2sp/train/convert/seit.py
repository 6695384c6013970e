"""Published SeiT classifier, `{"model": state_dict}` -> our TokenVit (reference formats, section 3)."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from im2sp.train.convert.checkpoints import read_checkpoint
from im2sp.train.convert.state_dicts import StateDict, state_dict_of
from im2sp.train.convert.streams import CheckpointError
from im2sp.train.convert.weights import counted_blocks, with_weights
from im2sp.train.models.token_vit import STEM_KERNEL, STEM_STRIDE, TokenVit, TokenVitConfig

HEAD_WIDTH = 64  # of timm's vision transformers; no shape in a checkpoint tells it
STEM = "patch_embed.proj.weight"
POSITIONS = "pos_embed"
FEED_FORWARD = "blocks.0.mlp.fc1.weight"
HEAD = "head.weight"


def convert_seit(checkpoint: Path) -> TokenVit:
    """A published token ViT, with its classifier where the file has one.

    Args:
        checkpoint: a file of `{"model": state_dict}`.

    Raises:
        CheckpointError: something is missing, damaged, hostile, or does not fit together.
    """
    return token_vit_of(state_dict_of(read_checkpoint(checkpoint), checkpoint, "model"), checkpoint)


def token_vit_of(state: StateDict, path: Path) -> TokenVit:
    """A token ViT out of named tensors. Raises CheckpointError when they are not those of one."""
    config = _sizes(state, path)
    return with_weights(lambda: TokenVit(config), state, path)


def _sizes(state: StateDict, path: Path) -> TokenVitConfig:
    """The sizes that the shapes tell; that all others agree with them is checked when the weights are loaded."""

    def shape(name: str, sizes: int) -> torch.Size:
        if name not in state or state[name].ndim != sizes or 0 in state[name].shape:
            raise CheckpointError(f"{path} lacks a whole {name}: is it a token ViT of SeiT?")
        return state[name].shape

    width, code_width, kernel, _ = shape(STEM, 4)
    places = shape(POSITIONS, 3)[1] - 1
    grid = math.isqrt(places)
    if kernel != STEM_KERNEL or grid < 1 or grid**2 != places or width % HEAD_WIDTH:
        raise CheckpointError(
            f"{path} has a stem of kernel {kernel}, {places} places and width {width}, where im2sp reads kernel "
            f"{STEM_KERNEL}, square grids and heads of {HEAD_WIDTH}: give a token ViT as published"
        )
    return TokenVitConfig(
        code_width=code_width,
        crop=grid * STEM_STRIDE,
        width=width,
        layers=counted_blocks(state, "blocks.", path),
        heads=width // HEAD_WIDTH,
        feed_forward=shape(FEED_FORWARD, 2)[0],
        classes=shape(HEAD, 2)[0] if HEAD in state else 0,
    )
