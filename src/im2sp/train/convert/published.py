"""A published config.json and named tensors -> a model whose every size, name and shape agrees with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from im2sp.errors import reason
from im2sp.train.convert.checkpoints import StateDict
from im2sp.train.convert.unpickling import CheckpointError

CONFIG_BYTES = 2**20
MOST_BLOCKS = 128
WEIGHT_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}

# A config comes from outside: no number in it may take a machine's whole memory or time.
Size = Annotated[int, Field(ge=1, le=65_536)]
Layers = Annotated[int, Field(ge=1, le=MOST_BLOCKS)]
Epsilon = Annotated[float, Field(gt=0, lt=1)]


class PublishedConfig(BaseModel):
    """Base of the configs that are read. Unknown fields are ignored, known ones are checked."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class PublishedTransformer(PublishedConfig):
    """Sizes of a transformer under the names of transformers. Defaults: those of base models."""

    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Size = 12
    layer_norm_eps: Epsilon = 1e-5

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size cannot be divided by the heads")
        return self


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
        where = ".".join(map(str, first["loc"])) + ": " if first["loc"] else ""
        what = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(f"{path} does not fit ({where}{what}): give the published config.json") from error
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
        CheckpointError: no such model can be built, or a weight is missing, left over, of another shape, or not finite.
    """
    try:
        with torch.device("meta"):
            model = build()
    except Exception as error:  # torch, transformers and their libraries have no exception in common
        raise CheckpointError(f"the sizes for {path} do not fit together ({reason(error)[:200]})") from error
    wanted = model.state_dict()
    if missing := sorted(set(wanted) - set(state)):
        raise CheckpointError(f"{path} lacks {missing[0]} (1 of {len(missing)}): is it of this kind and config?")
    if extra := sorted(set(state) - set(wanted)):
        raise CheckpointError(f"{path} has an unknown {extra[0][:80]!r} (1 of {len(extra)}): is it of this kind?")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{list(tensor.shape)} where the config asks for {list(wanted[name].shape)}"
            raise CheckpointError(f"{path} has {name} of shape {shapes}: give the config that belongs to it")
    if bad := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(f"{path} has weights that are not numbers in {bad[0]}: get the file again")
    floats = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    model.load_state_dict({name: floats[name].contiguous() for name in wanted}, assign=True)
    return model.eval().requires_grad_(False)


def renamed(state: StateDict, parts: Mapping[str, str]) -> StateDict:
    """Replace parts of the names of tensors: {theirs: ours}, in this order."""
    found = {}
    for name, tensor in state.items():
        for theirs, ours in parts.items():
            name = name.replace(theirs, ours)
        found[name] = tensor
    return found


def fold_weight_norm(state: StateDict, path: Path) -> StateDict:
    """Replace the pairs that weight norm keeps, under old and new names, by the weights g * v / |v|.

    Raises:
        CheckpointError: there is no g that fits a v.
    """
    state = renamed(state, WEIGHT_NORM)
    folded = {name: tensor for name, tensor in state.items() if not name.endswith((".weight_g", ".weight_v"))}
    for name in (name for name in state if name.endswith(".weight_v")):
        weight, direction = name.removesuffix("_v"), state[name].double()
        norm = state.get(f"{weight}_g")
        if norm is None or norm.shape != (len(direction), *[1] * (direction.ndim - 1)):
            raise CheckpointError(f"{path} has no {weight}_g that fits {name}: get the file again")
        folded[weight] = torch._weight_norm(direction, norm.double(), 0).float()
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
