"""Published Im2Sp, `{"state_dict": ...}` -> an image encoder and our decoder of units (docs/reference-formats.md).

The image encoder is GIT's in an Im2Sp of raw images, and a token ViT in one of image units.

Their token ids are those of BERT with the units around them; ours are pad 0, bos 1, eos 2 and unit u at 3 + u, so rows
of embeddings and output move. Unit 100 shares its row with bos in their files and gets a row of its own here. Id 103,
which they never use, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from im2sp.bundle import SPECIAL_TOKENS
from im2sp.train.convert.checkpoints import StateDict, read_state_dict
from im2sp.train.convert.git import (
    GIT_LARGE,
    GIT_PROCESSOR,
    VISION,
    Git,
    PublishedGit,
    decoder_of,
    git_of,
    read_processor,
)
from im2sp.train.convert.published import read_config
from im2sp.train.convert.seit import token_vit_of
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.convert.vit_vqgan import read_codebook, vit_vqgan_of
from im2sp.train.models.git import GitDecoder
from im2sp.train.models.token_vit import TokenVit
from im2sp.train.models.vit_vqgan import VitVqgan

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


@dataclass(frozen=True)
class ImageUnitGit:
    """A converted Im2Sp of image units."""

    token_vit: TokenVit
    decoder: GitDecoder
    tokenizer: VitVqgan | None  # makes the units; None where no file of it was given

    def with_tokenizer(self, tokenizer: VitVqgan, path: Path) -> ImageUnitGit:
        """Add the image tokenizer, which came from `path`. Raises CheckpointError when it does not fit."""
        given, taken = tokenizer.config, self.token_vit.config
        if given.code_width != taken.code_width or given.grid < taken.crop:
            raise CheckpointError(
                f"{path} has a tokenizer of {given.grid} x {given.grid} units of {given.code_width} numbers for a "
                f"token ViT of {taken.crop} x {taken.crop} units of {taken.code_width}: give files that belong together"
            )
        return ImageUnitGit(self.token_vit, self.decoder, tokenizer)

    def save(self, folder: Path) -> None:
        """Write `token_vit/`, `decoder/` and, where there is one, `tokenizer/`."""
        self.token_vit.save(folder / "token_vit")
        self.decoder.save(folder / "decoder")
        if self.tokenizer is not None:
            self.tokenizer.save(folder / "tokenizer")


@dataclass(frozen=True)
class _Published:
    """Content of a checkpoint: names of a GitForCausalLM, rows of the vocabulary in our order."""

    model: StateDict
    tokenizer: StateDict  # of images, beside the model in some files
    config: PublishedGit

    @property
    def reads_image_units(self) -> bool:
        """Whether its image encoder is a token ViT."""
        return any(name.startswith(f"{TOKEN_VIT}blocks.") for name in self.model)


def convert_im2sp(checkpoint: Path, config: Path | None = None, codebook: Path | None = None) -> Git | ImageUnitGit:
    """Convert a published Im2Sp of raw images or image units. Token 3 + u of its decoder is unit u.

    Args:
        checkpoint: a file of `{"state_dict": ...}` with names that start with `model.`.
        config: config.json of the GIT that it was trained from, perhaps with preprocessor_config.json beside it;
            without it those of git-large-coco, as in the paper.
        codebook: codebook.ckpt of the image tokenizer that a checkpoint of image units has beside the model; without
            it the tokenizer is left out.

    Raises:
        CheckpointError: something is missing, damaged, hostile, or does not fit together.
    """
    published = _read(checkpoint, config)
    if not published.reads_image_units:
        if codebook is not None:
            raise CheckpointError(f"{checkpoint} looks at raw images, which need no codebook: leave it out")
        processor = read_processor(config.parent) if config else GIT_PROCESSOR
        return git_of(published.model, published.config, checkpoint, processor)
    tokenizer = None
    if codebook is not None:
        if not published.tokenizer:
            raise CheckpointError(f"{checkpoint} has no image tokenizer: use `im2sp convert vit-vqgan` for its file")
        tokenizer = vit_vqgan_of(published.tokenizer, read_codebook(codebook), checkpoint)
    vision = {name.removeprefix(TOKEN_VIT): value for name, value in published.model.items() if name.startswith(VISION)}
    token_vit = token_vit_of(vision, checkpoint)
    decoder = decoder_of(published.model, published.config, token_vit.config.width, checkpoint)
    model = ImageUnitGit(token_vit, decoder, None)
    return model if tokenizer is None else model.with_tokenizer(tokenizer, checkpoint)


def _read(checkpoint: Path, config: Path | None) -> _Published:
    settings = GIT_LARGE if config is None else read_config(config, PublishedGit)
    found = read_state_dict(checkpoint, "state_dict")
    tokenizer = {name.removeprefix(TOKENIZER): value for name, value in found.items() if name.startswith(TOKENIZER)}
    state = {name.removeprefix(PREFIX): value for name, value in found.items() if not name.startswith(TOKENIZER)}
    if EMBEDDINGS not in state:
        raise CheckpointError(f"{checkpoint} lacks {PREFIX}{EMBEDDINGS}: is it the checkpoint of an Im2Sp?")
    size = len(state[EMBEDDINGS])
    if size <= EOS + 1:
        raise CheckpointError(f"{checkpoint} has {size} tokens, too few for units around BERT's ids: is it an Im2Sp?")
    state.setdefault("output.weight", state[EMBEDDINGS])
    rows = torch.tensor(published_rows(size - SPECIAL_TOKENS))
    for name in VOCABULARY:
        if name in state and len(state[name]) == size:
            state[name] = state[name][rows]
    sizes = settings.model_copy(update={"vocab_size": size, "tie_word_embeddings": True})
    return _Published(state, tokenizer, sizes)
