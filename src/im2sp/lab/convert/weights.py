"""Named tensors of a checkpoint -> a model of the lab: every name and every shape must agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from im2sp.lab.convert.state_dicts import StateDict
from im2sp.lab.convert.streams import CheckpointError

M = TypeVar("M", bound=nn.Module)


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
    model.load_state_dict({name: plain(state[name]) for name in wanted}, assign=True)
    return model.eval().requires_grad_(False)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Floats of any precision as contiguous float32; whole numbers as they are."""
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
