"""Named tensors of a checkpoint -> a model of the lab: every name and every shape must agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from im2sp.train.convert.state_dicts import StateDict
from im2sp.train.convert.streams import CheckpointError

MOST_BLOCKS = 128
WEIGHTS = ("model.safetensors", "pytorch_model.bin")

M = TypeVar("M", bound=nn.Module)


def weights_file(folder: Path) -> Path:
    """The weights in a folder of transformers' layout. Raises CheckpointError when there are none."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} has no {' or '.join(WEIGHTS)}: give the folder of a published model")


def with_weights(build: Callable[[], M], state: StateDict, path: Path) -> M:
    """A model of exactly these weights, in float32 and evaluation mode.

    The model is built without memory first, so a config that promises more than the checkpoint holds costs nothing.

    Args:
        build: makes the model; it may not compute anything from weights or buffers.
        state: tensors under the names of the model.
        path: the checkpoint, for messages.

    Raises:
        CheckpointError: a weight is missing, left over or of another shape.
    """
    with torch.device("meta"):
        model = build()
    wanted = model.state_dict()
    if missing := sorted(set(wanted) - set(state)):
        raise CheckpointError(f"{path} lacks {missing[0]}{_others(missing)}: is it the checkpoint of this config?")
    if extra := sorted(set(state) - set(wanted)):
        raise CheckpointError(f"{path} has an unknown {extra[0][:80]!r}{_others(extra)}: is it of this kind?")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{list(tensor.shape)} where the config asks for {list(wanted[name].shape)}"
            raise CheckpointError(f"{path} has {name} of shape {shapes}: give the config that belongs to it")
    if bad := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(f"{path} has weights that are not numbers in {bad[0]}: get the file again")
    model.load_state_dict({name: plain(state[name]) for name in wanted}, assign=True)
    return model.eval().requires_grad_(False)


def fold_weight_norm(state: StateDict, path: Path) -> StateDict:
    """Replace the pairs that weight norm keeps by the weights that they stand for: g * v / |v|, one norm a row of v.

    Raises:
        CheckpointError: one of a pair is missing, or they do not fit.
    """
    folded = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if kind == "weight_g":
            continue
        if kind == "weight_v":
            size = state.get(f"{stem}.weight_g")
            if size is None or tensor.ndim < 2 or size.shape != (len(tensor), *[1] * (tensor.ndim - 1)):
                raise CheckpointError(f"{path} has no {stem}.weight_g that fits {name}: get the file again")
            norm = tensor.double().flatten(1).norm(dim=1).view(size.shape)
            folded[f"{stem}.weight"] = (size.double() * tensor.double() / norm).float()
        else:
            folded[name] = tensor
    return folded


def counted_blocks(state: StateDict, prefix: str, path: Path) -> int:
    """How many numbered blocks stand behind `prefix`, as in `blocks.0.`, `blocks.1.`; 0 where there are none.

    Raises:
        CheckpointError: there are more than MOST_BLOCKS, or one in between is missing.
    """
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)}
    if len(numbers) > MOST_BLOCKS or numbers != {str(number) for number in range(len(numbers))}:
        raise CheckpointError(f"{path} has no row of at most {MOST_BLOCKS} blocks {prefix[:80]}N: get the file again")
    return len(numbers)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Floats of any precision as contiguous float32; whole numbers as they are."""
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
