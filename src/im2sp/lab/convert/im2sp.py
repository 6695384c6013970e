"""Published Im2Sp of raw images, `{"state_dict": ...}` -> GIT's image encoder and our Translator of speech units.

Reference formats, section 2. Their token ids are those of BERT with the units around them; ours are pad 0, bos 1, eos 2
and unit u at 3 + u, so rows of embeddings and output move. Unit 100 shares its row with bos in their files and gets a
row of its own here. Id 103, which they never use, has no place in ours.
"""

from __future__ import annotations

from pathlib import Path

import torch

from im2sp.bundle import SPECIAL_TOKENS
from im2sp.lab.convert.checkpoints import read_checkpoint
from im2sp.lab.convert.configs import read_config
from im2sp.lab.convert.git import GIT_LARGE, Git, PublishedGit, git_of
from im2sp.lab.convert.state_dicts import StateDict, state_dict_of
from im2sp.lab.convert.streams import CheckpointError

PAD, BOS, EOS = 0, 101, 102  # their ids
PREFIX = "model."
TOKENIZER = "tokenizer."  # of images, beside the model in some files
EMBEDDINGS = "git.embeddings.word_embeddings.weight"
VOCABULARY = (EMBEDDINGS, "output.weight", "output.bias")


def published_id(unit: int) -> int:
    """Their token id of a unit."""
    return unit + 1 if unit <= 100 else unit + 3


def published_rows(units: int) -> list[int]:
    """For every token of ours the row of their vocabulary that it takes."""
    return [PAD, BOS, EOS, *map(published_id, range(units))]


def convert_im2sp(checkpoint: Path, config: Path | None = None) -> Git:
    """A published Im2Sp whose translator speaks units: token 3 + u is unit u.

    Args:
        checkpoint: a file of `{"state_dict": ...}` with names that start with `model.`.
        config: config.json of the GIT that it was trained from; without it that of git-large-coco, as in the paper.

    Raises:
        CheckpointError: something is missing, damaged, hostile, or does not fit together.
    """
    settings = GIT_LARGE if config is None else read_config(config, PublishedGit)
    state = _own(state_dict_of(read_checkpoint(checkpoint), checkpoint, "state_dict"))
    if EMBEDDINGS not in state:
        raise CheckpointError(f"{checkpoint} lacks {PREFIX}{EMBEDDINGS}: is it the checkpoint of an Im2Sp?")
    if any(name.startswith("git.image_encoder.vision_model.blocks.") for name in state):
        raise CheckpointError(f"{checkpoint} looks at image units, which im2sp cannot convert: give the raw-image one")
    size = len(state[EMBEDDINGS])
    if size <= EOS + 1:
        raise CheckpointError(f"{checkpoint} has {size} tokens, too few for units around BERT's ids: is it an Im2Sp?")
    state.setdefault("output.weight", state[EMBEDDINGS])
    rows = torch.tensor(published_rows(size - SPECIAL_TOKENS))
    for name in VOCABULARY:
        if name in state and len(state[name]) == size:
            state[name] = state[name][rows]
    sizes = settings.model_copy(update={"vocab_size": size, "tie_word_embeddings": True})
    return git_of(state, sizes, checkpoint)


def _own(state: StateDict) -> StateDict:
    """Names as GitForCausalLM has them; an image tokenizer beside the model is left out."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if not name.startswith(TOKENIZER)}
