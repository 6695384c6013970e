"""A checkpoint file -> plain values or named tensors: torch files, pickles, joblib files, safetensors, .npy, .npz.

`read_checkpoint` and what calls it are the only doors for files from outside. Pickles go through the allow list of
`unpickling`; sizes are checked before memory is taken.
"""

from __future__ import annotations

import mmap
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from im2sp.errors import reason
from im2sp.train.convert.unpickling import PICKLE_MODULE, AttributeBag, CheckpointError, load_pickle

FILE_BYTES = 16 * 2**30
INFLATED_BYTES = 2**30  # of a .npz archive
PICKLE_BYTES = 256 * 2**20  # of the pickle in a zip file, without the tensors
MODULES = 10_000  # of a pickled module
SHOWN_KEYS = 8  # in a message
WEIGHTS = ("model.safetensors", "pytorch_model.bin")

_ZIP = b"PK\x03\x04"
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that torch.save wrote first

StateDict = dict[str, Tensor]


def read_checkpoint(path: Path, most_bytes: int = FILE_BYTES) -> object:
    """What a file holds: dicts, lists, numbers, texts, tensors, numpy arrays, and attribute bags for all else.

    Raises:
        CheckpointError: one sentence for a file that is missing, damaged, too large, hostile or of another kind.
    """
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise CheckpointError(f"has {size} bytes, more than the {most_bytes} that im2sp reads")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch and numpy about old or odd files
            return _read(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}: get the file again, from a source that you trust") from error
    except MemoryError as error:
        raise CheckpointError(f"{path} needs more memory than there is: convert it on a larger machine") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
    except Exception as error:  # anything can go wrong in a damaged or hostile stream
        raise CheckpointError(f"{path} is damaged, or no checkpoint: get the file again") from error


def read_state_dict(path: Path, inside: str | None = None) -> StateDict:
    """Named tensors of a file that holds a dict of tensors, a pickled module, or a dict with one of them at `inside`.

    Raises:
        CheckpointError: as `read_checkpoint` does, or there are no named tensors there.
    """
    value = read_checkpoint(path)
    if inside is not None:
        if not isinstance(value, dict) or inside not in value:
            raise CheckpointError(f"{path} has no {inside!r} ({_kind(value)}): give the published checkpoint")
        value = value[inside]
    if isinstance(value, AttributeBag):
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


def read_matrix(path: Path, what: str, name: str = "") -> Tensor:
    """Read a matrix float32 [rows, columns] of numbers: by itself, at `name` of a dict or of a pickled object, or alone
    in a dict.

    Raises:
        CheckpointError: there is none; `what` says what is missing.
    """
    value = read_checkpoint(path)
    if isinstance(value, AttributeBag):
        value = value.attribute(name)
    elif isinstance(value, dict):
        value = value.get(name, next(iter(value.values())) if len(value) == 1 else None)
    rows = as_tensor(value)
    if rows is None or rows.ndim != 2 or min(rows.shape) < 1 or not rows.is_floating_point():
        raise CheckpointError(f"{path} holds no {what}, a matrix of one row each: give the published file")
    if not torch.isfinite(rows).all():
        raise CheckpointError(f"{path} has {what} that are not numbers: get the file again")
    return rows.float().contiguous()


def weights_file(folder: Path) -> Path:
    """The weights in a folder of transformers' layout. Raises CheckpointError when there are none."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} has no {' or '.join(WEIGHTS)}: give the folder of a published model")


def as_tensor(value: object) -> Tensor | None:
    """A torch tensor or numpy array as a tensor; None for all else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    return value if isinstance(value, Tensor) else None


def _module_tensors(root: AttributeBag, path: Path) -> StateDict:
    """Parameters and buffers of a pickled torch module by their path, as its own state_dict would name them.

    Parts that are no torch modules, or whose state their library keeps otherwise, have no tensors and are passed by.
    """
    if not isinstance(root.attribute("_modules"), dict):
        raise CheckpointError(f"{path} holds no named tensors ({root.kind}): give a state dict or a pickled module")
    found: StateDict = {}
    waiting = [("", root)]
    for _ in range(MODULES):
        if not waiting:
            return found
        prefix, module = waiting.pop()
        transient = module.attribute("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers", "_modules"):
            part = module.attribute(kind)
            for name, value in part.items() if isinstance(part, dict) else ():
                tensor = as_tensor(value)
                if isinstance(value, AttributeBag):
                    waiting.append((f"{prefix}{name}.", value))
                elif tensor is not None and not (isinstance(transient, set) and name in transient):
                    found[f"{prefix}{name}"] = tensor
    raise CheckpointError(f"{path} has a module of more than {MODULES} parts: give the published checkpoint")


def _kind(value: object) -> str:
    """What a value is, for a message."""
    if isinstance(value, AttributeBag):
        return value.kind
    if isinstance(value, dict):
        return f"a dict of {', '.join(repr(key)[:40] for key in list(value)[:SHOWN_KEYS]) or 'nothing'}"
    return type(value).__name__


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npy":  # mapped first: a header that promises more than the file holds takes no memory
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        start: Any = mapped[:16]
        if start.startswith(_ZIP) and path.suffix == ".npz":
            return _read_npz(path)
        if start.startswith(_ZIP):
            _check_zip(path)
        if start.startswith((_ZIP, _TORCH_LEGACY)):
            # Not the file: torch would look into it for the tar archives of its first versions.
            return torch.load(mapped, "cpu", PICKLE_MODULE, weights_only=False)  # type: ignore[arg-type]
        return load_pickle(mapped)  # type: ignore[arg-type]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > INFLATED_BYTES:
            raise CheckpointError(f"unpacks to more than {INFLATED_BYTES} bytes")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _check_zip(path: Path) -> None:
    """Refuse what torch.save does not write. Its entries are not compressed, so they cannot be bombs."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1 or any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise CheckpointError("is a zip file but not one that torch.save wrote")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError("is a compressed zip file, which torch never writes")
    if pickles[0].file_size > PICKLE_BYTES or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError("has parts that are larger than they may be")
