"""Pickles in every container that is read, and calls that must not happen when they are."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import joblib
import torch

Writer = Callable[[object, Path], object]
WRITERS: dict[str, Writer] = {
    "torch": torch.save,
    "torch-legacy": partial(torch.save, _use_new_zipfile_serialization=False),
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value, protocol=4)),
    "joblib": joblib.dump,
}
TORCH = ("torch", "torch-legacy")


class Attack:
    """Makes a call when it is unpickled the usual way."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


def touching(canary: Path) -> Attack:
    """Makes a file when it is unpickled the usual way."""
    return Attack(os.system, f"touch {canary}")
