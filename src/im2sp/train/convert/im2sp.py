"""Published Im2Sp, `{"state_dict": ...}` -> an image encoder and our decoder of units (docs/reference-formats.md).

The image encoder is GIT's in an Im2Sp of raw images, and a token ViT in one of image units.

Their token ids are those of BERT with the units around them; ours are pad 0, bos 1, eos 2 and unit u at 3 + u, so rows
of embeddings and output move. Unit 100 shares its row with bos in their files and gets a row of its own here. Id 103,
which they never use, is left out.
"""

from __future__ import annotations

from pathlib import Path

import torch

from im2sp.bundle import SPECIAL_TOKENS
from im2sp.train.convert.checkpoints import StateDict, read_state_dict
from im2sp.train.convert.git import (
    GIT_LARGE,
    GIT_PROCESSOR,
    VISION,
    PublishedGit,
    decoder_of,
    git_of,
    read_processor,
)
from im2sp.train.convert.published import read_config
from im2sp.train.convert.seit import token_vit_of
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.convert.vit_vqgan import read_codebook, vit_vqgan_of
from im2sp.train.export import ImageModules
from im2sp.train.image_encoders import vit_vqgan_modules
from im2sp.train.models.git import GitDecoder

PAD, BOS, EOS = 0, 101, 102  # their ids
PREFIX = "model."
TOKENIZER = "tokenizer."
TOKEN_VIT = f"{VISION}vision_model."
EMBEDDINGS = "git.embeddings.word_embeddings.weight"
VOCABULARY = (EMBEDDINGS, "output.weight", "output.bias")


def published_id(unit: int) -> int:
    """Their token id of a unit."""
    return unit + 1 if unit <= 100 else unit + 3


def published_rows(units: int) -> list[int]:
    """For every token of ours the row of their vocabulary that it takes."""
    return [PAD, BOS, EOS, *map(published_id, range(units))]


def convert_im2sp(
    checkpoint: Path,
    config: Path | None = None,
    codebook: Path | None = None,
    tokenizer: Path | None = None,
    name: str = "im2sp",
) -> tuple[ImageModules, GitDecoder]:
    """Convert a published Im2Sp of raw images or image units. Token 3 + u of its decoder is unit u.

    Args:
        checkpoint: a file of `{"state_dict": ...}` with names that start with `model.`.
        config: config.json of the GIT that it was trained from, perhaps with preprocessor_config.json beside it;
            without it those of git-large-coco, as in the paper.
        codebook: codebook.ckpt of the image tokenizer, for an Im2Sp of image units.
        tokenizer: tokenizer.ckpt, where the checkpoint has no image tokenizer beside the model.
        name: of the bundle, from which the image tokenizer has its own.

    Raises:
        Im2SpError: something is missing, damaged, hostile, or does not fit together.
    """
    found = read_state_dict(checkpoint, "state_dict")
    state = {name.removeprefix(PREFIX): value for name, value in found.items() if not name.startswith(TOKENIZER)}
    sizes = _in_our_order(state, GIT_LARGE if config is None else read_config(config, PublishedGit), checkpoint)
    if not any(name.startswith(f"{TOKEN_VIT}blocks.") for name in state):
        if codebook or tokenizer:
            raise CheckpointError(f"{checkpoint} looks at raw images: leave codebook and image tokenizer out")
        git = git_of(state, sizes, checkpoint, read_processor(config.parent) if config else GIT_PROCESSOR)
        return ImageModules(git.image, git.vision), git.decoder
    if codebook is None:
        raise CheckpointError(f"{checkpoint} looks at image units: give --codebook of their image tokenizer")
    vision = {name.removeprefix(TOKEN_VIT): value for name, value in state.items() if name.startswith(VISION)}
    token_vit = token_vit_of(vision, checkpoint)
    decoder = decoder_of(state, sizes, token_vit.config.width, checkpoint)
    if tokenizer:
        makes_units = vit_vqgan_of(read_state_dict(tokenizer), read_codebook(codebook), tokenizer)
    else:
        parts = {name.removeprefix(TOKENIZER): value for name, value in found.items() if name.startswith(TOKENIZER)}
        if not parts:
            raise CheckpointError(f"{checkpoint} has no image tokenizer: give --image-tokenizer, its tokenizer.ckpt")
        makes_units = vit_vqgan_of(parts, read_codebook(codebook), checkpoint)
    return vit_vqgan_modules(makes_units, token_vit, f"{name}-vit-vqgan"), decoder


def _in_our_order(state: StateDict, config: PublishedGit, path: Path) -> PublishedGit:
    """Reorder the rows of the vocabulary in place; return the config with its size.

    Raises:
        CheckpointError: there is no vocabulary of units.
    """
    size = len(state[EMBEDDINGS]) if EMBEDDINGS in state else 0
    if size <= EOS + 1:
        raise CheckpointError(f"{path} has {size} tokens, too few for units around BERT's ids: is it an Im2Sp?")
    state.setdefault("output.weight", state[EMBEDDINGS])
    rows = torch.tensor(published_rows(size - SPECIAL_TOKENS))
    for name in VOCABULARY:
        if name in state and len(state[name]) == size:
            state[name] = state[name][rows]
    return config.model_copy(update={"vocab_size": size, "tie_word_embeddings": True})
