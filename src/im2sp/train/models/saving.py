"""A model <-> a folder of `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

from im2sp.errors import Im2SpError, reason
from im2sp.files import atomic_write, write_json
from im2sp.train.parsing import parse

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIG, WEIGHTS = "config.json", "model.safetensors"

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


def save_model(state: dict[str, Tensor], config: DataclassInstance, folder: Path) -> None:
    """Write weights and a dataclass of their sizes; the config last, so that a folder with a config is complete."""
    with atomic_write(folder / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)
    write_json(folder / CONFIG, asdict(config))


def load_config(folder: Path, kind: type[T]) -> T:
    """Read the dataclass that `save_model` wrote.

    Raises:
        Im2SpError: the file is missing or holds something else.
    """
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Im2SpError(f"{path} cannot be read ({reason(error)})") from error
    return parse(kind, values, str(path))


def load_weights(model: M, path: Path) -> M:
    """Fill a model with the tensors of a file, in evaluation mode; of tied ones the file has one.

    Raises:
        Im2SpError: the file is missing or damaged, or has other tensors.
    """
    try:
        load_model(model, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise Im2SpError(f"{path} cannot be read ({reason(error)[:200]}): make it again") from error
    return model.eval()


class SavedModule(nn.Module):
    """A network that is made of one dataclass, `config`, of the type `config_type`."""

    config_type: ClassVar[type]
    config: Any

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        save_model(self.state_dict(), self.config, folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, in evaluation mode. Raises Im2SpError when it cannot be read."""
        return load_weights(cls(load_config(folder, cls.config_type)), folder / WEIGHTS)


class Exported(nn.Module):
    """A function of a network as a module of its own, for export."""

    def __init__(self, network: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x: Tensor) -> Tensor:
        """What the function makes of x."""
        return self.function(x)
