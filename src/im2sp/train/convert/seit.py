"""Published SeiT classifier, `{"model": state_dict}` -> our TokenVit, without its head (docs/reference-formats.md)."""

from __future__ import annotations

import math
from pathlib import Path

from im2sp.train.convert.checkpoints import StateDict, read_state_dict
from im2sp.train.convert.published import count_blocks, whole_shape, with_weights
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.models.token_vit import STEM_KERNEL, STEM_STRIDE, TokenVit, TokenVitConfig

HEAD_WIDTH = 64  # of timm's vision transformers; no shape in a checkpoint tells it
STEM = "patch_embed.proj.weight"
CLASSIFIER = ("norm.", "head.")  # captioning takes the tokens before the last norm


def convert_seit(checkpoint: Path) -> TokenVit:
    """Convert a published token ViT.

    Args:
        checkpoint: a file of `{"model": state_dict}`.

    Raises:
        CheckpointError: something is missing, damaged, hostile, or does not fit together.
    """
    return token_vit_of(read_state_dict(checkpoint, "model"), checkpoint)


def token_vit_of(state: StateDict, path: Path) -> TokenVit:
    """Make a token ViT of named tensors. Raises CheckpointError when they are not those of one."""
    state = {name: tensor for name, tensor in state.items() if not name.startswith(CLASSIFIER)}
    config = _sizes(state, path)
    return with_weights(lambda: TokenVit(config), state, path)


def _sizes(state: StateDict, path: Path) -> TokenVitConfig:
    """Sizes as the shapes tell them. `with_weights` checks that all others agree."""
    width, code_width, kernel, _ = whole_shape(state, STEM, 4, path)
    places = whole_shape(state, "pos_embed", 3, path)[1] - 1
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
        layers=count_blocks(state, "blocks.", path),
        heads=width // HEAD_WIDTH,
        feed_forward=whole_shape(state, "blocks.0.mlp.fc1.weight", 2, path)[0],
    )
