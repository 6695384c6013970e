"""A model -> a folder of `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from safetensors.torch import save_file
from torch import Tensor

from im2sp.errors import Im2SpError, reason
from im2sp.files import atomic_write
from im2sp.train.parsing import parse

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIG, WEIGHTS = "config.json", "model.safetensors"

T = TypeVar("T")


def save_model(state: dict[str, Tensor], config: DataclassInstance, folder: Path) -> None:
    """Write weights and a dataclass of their sizes; the config last, so that a folder with a config is complete."""
    with atomic_write(folder / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)
    with atomic_write(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(asdict(config), indent=1))


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
