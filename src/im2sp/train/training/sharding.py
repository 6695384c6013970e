"""A model in shards (torch's FSDP2): each process keeps its part of every weight, gradient and moment.

A layer's weights are put together before it computes and dropped after it; gradients are added up over the processes
and kept in shards. What is saved is whole, so a checkpoint knows nothing of processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from im2sp.errors import Im2SpError


def shard(root: nn.Module, layers: Iterable[nn.Module], methods: tuple[str, ...], device: str, count: int) -> None:
    """Let each of `count` processes keep its shard of a model; its parameters become DTensors in place.

    Args:
        root: what is called in training; it holds together what is in none of the layers.
        layers: modules in it whose weights are put together by themselves.
        methods: what is called of a layer where that is not its forward pass.
        device: "cpu" or "cuda".

    Raises:
        Im2SpError: this torch has no FSDP2.
    """
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    except ImportError as error:
        raise Im2SpError(
            f"torch {torch.__version__} cannot train in shards: install torch 2.6 or later, "
            "or leave `sharded` out of the recipe"
        ) from error
    # Keys and values are views, as it warns with each step; nothing changes them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device, (count,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
        for method in methods:
            register_fsdp_forward_method(layer, method)
    fully_shard(root, mesh=mesh)


def whole(value: Any) -> Any:
    """Tensors in nested dicts and lists, put together from their shards on the CPU; all else as it is.

    All processes must call this at the same time, and with the same names.
    """
    if isinstance(value, Mapping):
        return {key: whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    return value.full_tensor().cpu() if _is_sharded(value) else value


def local(value: Tensor) -> Tensor:
    """What this process keeps of a tensor, which shares its memory."""
    return value.to_local() if _is_sharded(value) else value  # type: ignore[attr-defined]


def as_kept(value: Tensor, kept: Tensor) -> Tensor:
    """A whole tensor as another of its shape is kept: in shards or not, and on the same device."""
    if not _is_sharded(kept):
        return value.to(kept.device)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = kept.device_mesh, kept.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(kept.device), mesh, placements)


def moments_as_kept(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The whole state of an optimiser, its moments as its parameters are kept."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        number: {
            name: as_kept(value, parameters[number]) if _is_like(value, parameters[number]) else value
            for name, value in found.items()
        }
        for number, found in state["state"].items()
    }
    return state | {"state": moments}


def _is_like(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _is_sharded(value: object) -> bool:
    """Whether it is a DTensor, which old versions of torch have elsewhere."""
    return hasattr(value, "full_tensor")
