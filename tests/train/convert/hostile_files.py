"""Pickles in every container that is read, and calls that must not happen when they are."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import joblib
import torch

Writer = Callable[[object, Path], None]


class Attack:
    """Makes a call when it is unpickled the usual way."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


def touching(canary: Path) -> Attack:
    """Makes a file when it is unpickled the usual way."""
    return Attack(os.system, f"touch {canary}")


def torch_zip(value: object, path: Path) -> None:
    torch.save(value, path)


def torch_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def plain_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=4))


def joblib_plain(value: object, path: Path) -> None:
    joblib.dump(value, path)


TORCH_WRITERS: list[Writer] = [torch_zip, torch_legacy]
WRITERS: list[Writer] = [*TORCH_WRITERS, plain_pickle, joblib_plain]
