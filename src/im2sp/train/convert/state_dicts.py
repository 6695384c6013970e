"""What `read_checkpoint` returned -> named tensors, whether they came as a state dict or as a pickled module."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from im2sp.train.convert.pickles import Record
from im2sp.train.convert.streams import CheckpointError

MOST_MODULES = 10_000
SHOWN_KEYS = 8  # in a message

StateDict = dict[str, Tensor]


def state_dict_of(value: object, path: Path, inside: str | None = None) -> StateDict:
    """The named tensors of what `read_checkpoint` returned.

    Args:
        value: a dict of tensors, a pickled module, or a dict that has one of them at the key `inside`.
        path: the file, for messages.

    Raises:
        CheckpointError: there are no named tensors there.
    """
    if inside is not None:
        if not isinstance(value, dict) or inside not in value:
            raise CheckpointError(f"{path} has no {inside!r} ({_kind(value)}): give the published checkpoint")
        value = value[inside]
    if isinstance(value, Record):
        return _module_tensors(value, path)
    if not isinstance(value, dict) or not value:
        raise CheckpointError(f"{path} holds no named tensors ({_kind(value)}): give a state dict or a pickled module")
    found: StateDict = {}
    for name, item in value.items():
        tensor = as_tensor(item)
        if not isinstance(name, str) or tensor is None:
            raise CheckpointError(f"{path} has {_kind(item)} at {str(name)[:60]!r} where a tensor should be")
        found[name] = tensor
    return found


def as_tensor(value: object) -> Tensor | None:
    """A torch tensor or numpy array as a tensor; None for all else."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    return value if isinstance(value, Tensor) else None


def _module_tensors(root: Record, path: Path) -> StateDict:
    """Parameters and buffers of a pickled torch module by their path, as its own state_dict would name them."""
    found: StateDict = {}
    waiting = [("", root)]
    for _ in range(MOST_MODULES):
        if not waiting:
            return found
        prefix, module = waiting.pop()
        own = [module.attribute(name) for name in ("_parameters", "_buffers", "_modules")]
        if not all(isinstance(part, dict) for part in own):
            raise CheckpointError(
                f"{path} holds no named tensors ({module.kind}): give a state dict or a pickled module"
            )
        parameters, buffers, modules = (cast(dict[str, object], part) for part in own)
        passing = module.attribute("_non_persistent_buffers_set")
        for name, value in (parameters | buffers).items():
            kept = not isinstance(passing, set) or name not in passing
            if kept and (tensor := as_tensor(value)) is not None:
                found[f"{prefix}{name}"] = tensor
        waiting += [(f"{prefix}{name}.", value) for name, value in modules.items() if isinstance(value, Record)]
    raise CheckpointError(f"{path} has a module of more than {MOST_MODULES} parts: give the published checkpoint")


def _kind(value: object) -> str:
    """What a value is, for a message."""
    if isinstance(value, Record):
        return str(value.kind)
    if isinstance(value, dict):
        return f"a dict of {', '.join(repr(key)[:40] for key in list(value)[:SHOWN_KEYS]) or 'nothing'}"
    return type(value).__name__
