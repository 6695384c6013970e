"""A published config.json and named tensors -> a model whose every size, name and shape agrees with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from im2sp.errors import reason
from im2sp.train.convert.checkpoints import StateDict
from im2sp.train.convert.unpickling import CheckpointError

CONFIG_BYTES = 2**20
MOST_BLOCKS = 128

# A config comes from outside: no number in it may take a machine's whole memory or time.
Size = Annotated[int, Field(ge=1, le=65_536)]
Layers = Annotated[int, Field(ge=1, le=MOST_BLOCKS)]
Epsilon = Annotated[float, Field(gt=0, lt=1)]


class PublishedConfig(BaseModel):
    """Base of the configs that are read. Unknown fields are ignored, known ones are checked."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


C = TypeVar("C", bound=PublishedConfig)
M = TypeVar("M", bound=nn.Module)


def read_config(path: Path, kind: type[C]) -> C:
    """Read a config.json.

    Raises:
        CheckpointError: it is missing, not JSON, or a field that is needed is missing or out of range.
    """
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise CheckpointError(f"{path} is larger than {CONFIG_BYTES >> 20} MB: give the published config.json")
        return kind.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        subject = f"{where}: {what}" if where else what
        raise CheckpointError(f"{path} does not fit ({subject}): give the published config.json") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: give the published config.json") from error


def with_weights(build: Callable[[], M], state: StateDict, path: Path) -> M:
    """A model with exactly these weights, in float32 and evaluation mode.

    The model is built without memory first, so a config that promises more than the checkpoint holds costs nothing.

    Args:
        build: makes the model. It may not compute anything from weights or buffers.
        state: tensors under the names of the model.
        path: the checkpoint, for messages.

    Raises:
        CheckpointError: a weight is missing, left over, of another shape, or not finite.
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

    Both names of a pair are known, `weight_g` and `weight_v`, and those of torch's parametrizations.

    Raises:
        CheckpointError: one of a pair is missing, or they do not fit.
    """
    state = {
        name.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): tensor
        for name, tensor in state.items()
    }
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


def whole_shape(state: StateDict, name: str, dimensions: int, path: Path) -> torch.Size:
    """The shape of a tensor from which sizes of a model follow. Raises CheckpointError when it cannot be one."""
    if name not in state or state[name].ndim != dimensions or 0 in state[name].shape:
        raise CheckpointError(f"{path} lacks a whole {name}: is it a checkpoint of this kind?")
    return state[name].shape


def count_blocks(state: StateDict, prefix: str, path: Path) -> int:
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
