"""Pickled torch modules whose classes nobody has who reads them."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import torch
from torch import Tensor, nn


def write_pickled_module(state: dict[str, Tensor], path: Path, fixed: tuple[str, ...] = ()) -> None:
    """Save a module with these parameters, made of a class that is gone when this function returns.

    Args:
        fixed: endings of the names that are buffers.
    """
    module = types.ModuleType("lost_module")
    part = type("LostPart", (nn.Module,), {"__module__": module.__name__})
    module.LostPart = part  # type: ignore[attr-defined]
    root = part()
    for name, tensor in state.items():
        owner, *rest = root, *name.split(".")
        for step in rest[:-1]:
            if step not in owner._modules:
                owner.add_module(step, part())
            owner = owner._modules[step]
        if name.endswith(fixed) if fixed else False:
            owner.register_buffer(rest[-1], tensor)
        else:
            owner.register_parameter(rest[-1], nn.Parameter(tensor))
    sys.modules[module.__name__] = module
    try:
        torch.save(root, path)
    finally:
        del sys.modules[module.__name__]
