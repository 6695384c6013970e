"""A model -> a folder of `config.json` and `model.safetensors`, each replaced whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from safetensors.torch import save_file
from torch import Tensor

from im2sp.files import replace_whole
from im2sp.train.values import as_tuples

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIG, WEIGHTS = "config.json", "model.safetensors"

T = TypeVar("T")


def save_model(state: dict[str, Tensor], config: DataclassInstance, folder: Path) -> None:
    """Write weights and the dataclass that says their sizes; the config last, so that a folder with one is whole."""
    with replace_whole(folder / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)
    with replace_whole(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(asdict(config), indent=1))


def load_config(folder: Path, kind: type[T]) -> T:
    """The dataclass that `save_model` wrote."""
    values = json.loads((folder / CONFIG).read_text())
    return kind(**{name: as_tuples(value) for name, value in values.items()})
