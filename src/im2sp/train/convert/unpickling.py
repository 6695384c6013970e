"""Pickle streams of untrusted files -> plain values. Nothing outside an allow list is imported or called.

The list has numpy arrays of numbers, joblib's arrays, torch tensors, dicts and sets. Every other class or function
becomes an `AttributeBag`, which keeps the state of the object and can do nothing. `torch.load` opens its containers
with `PICKLE_MODULE`, so all pickles go through one door. It is narrower than `weights_only=True` in time and memory
(operations, keys, copied bytes), and wider in one thing: it passes by classes that it does not know.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch

from im2sp.errors import Im2SpError

OPERATIONS = 2_000_000  # pickle opcodes; a thousand tensors take thirty thousand
COPIED_BYTES = 2**30  # of texts and bytes that the stream copies into arrays
Opcode = Callable[[Any], None]  # executes an opcode on an unpickler
_NUMBERS = re.compile(r"[<=|]?([fiu][1248]|b1)")  # numpy dtypes without Python objects in them

# Their calls become attribute bags like those of any other unknown name. No checkpoint mentions these modules, so the
# file is an attack, and the user should know.
_HARMFUL = frozenset({
    "_pickle", "asyncio", "cloudpickle", "code", "commands", "ctypes", "dill", "http", "imp", "importlib", "marshal",
    "multiprocessing", "nt", "operator", "os", "pdb", "pickle", "pip", "posix", "pty", "pydoc", "requests", "runpy",
    "shutil", "signal", "site", "socket", "subprocess", "sys", "tempfile", "timeit", "urllib", "webbrowser",
})  # fmt: skip
_HARMFUL_BUILTINS = frozenset({
    "__import__", "breakpoint", "compile", "delattr", "eval", "exec", "execfile", "globals", "input", "open", "setattr",
})  # fmt: skip


class CheckpointError(Im2SpError):
    """A checkpoint that is damaged, hostile, or not in the expected layout."""


class AttributeBag:
    """Stands for an object of an unknown class, or for what an unknown function returned."""

    kind = "object"  # the name in the pickle
    state: object = None  # what the class would have received in __setstate__

    def __init__(self, *arguments: object, **keywords: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        """Drop an item of an unknown mapping."""

    def add(self, *items: object) -> None:
        """Drop items of an unknown collection."""

    append = extend = add

    def attribute(self, name: str) -> object:
        """An attribute of the pickled object; None where it has none of that name."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return next((part[name] for part in parts if isinstance(part, dict) and name in part), None)


class _JoblibArray(AttributeBag):
    """joblib's NumpyArrayWrapper. The bytes of the array stand in the stream behind its state."""


class AllowListUnpickler(pickle._Unpickler):
    """Reads one pickle. Exceptions of any kind mean that the stream is damaged or hostile."""

    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[object], None]

    def __init__(self, file: BinaryIO, encoding: str = "latin1", **_: object) -> None:
        super().__init__(file, encoding=encoding)
        self._file = file
        self._bags: dict[str, type[AttributeBag]] = {}
        self._copied = 0
        self._operations = 0
        self._allowed: dict[str, Callable[..., object]] = {
            "collections.OrderedDict": _dict,
            "builtins.set": _set,
            "copyreg._reconstructor": _reconstructor,
            "_codecs.encode": self._encode,
            "numpy.dtype": _dtype,
            "numpy.core.multiarray._reconstruct": _empty_array,
            "numpy.core.numeric._frombuffer": _array,
            "joblib.numpy_pickle.NumpyArrayWrapper": _JoblibArray,
            "torch.Size": tuple,
            "torch._utils._rebuild_tensor": _tensor,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
        }

    def find_class(self, module: str, name: str) -> object:
        """Our own constructor for an allowed name; a fresh class of attribute bags for any other.

        Raises:
            CheckpointError: only an attack would mention this name.
        """
        for old, new in _RENAMED.items():
            module = module.replace(old, new)
        full = f"{module}.{name}"
        shown = re.sub(r"[^\w.]", "?", full[:100])  # goes into messages
        if module.partition(".")[0] in _HARMFUL or (module == "builtins" and name in _HARMFUL_BUILTINS):
            raise CheckpointError(f"asks to run {shown}, which no checkpoint needs")
        if full not in self._bags:
            self._bags[full] = type(shown, (AttributeBag,), {"kind": shown})
        return self._allowed.get(full, self._bags[full])

    def count(self, load: Opcode) -> None:
        """Execute one opcode."""
        self._operations += 1
        if self._operations > OPERATIONS:
            raise CheckpointError(f"has more than {OPERATIONS} pickle operations")
        load(self)

    def build(self) -> None:
        """Opcode BUILD: the state of an object. Only bags and arrays take one, so nothing shared can be changed."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _JoblibArray):
            self.stack[-1] = self._joblib_array(state)
        elif isinstance(target, AttributeBag):
            target.state = state
        elif isinstance(target, np.ndarray) and not target.size:
            version, shape, dtype, fortran, data = state
            if isinstance(dtype, np.dtype):  # arrays of objects stay empty
                raw = data.encode("latin1") if isinstance(data, str) else data  # text in pickles of Python 2
                self._spend(raw)
                target.__setstate__((version, shape, dtype, fortran, raw))
        elif isinstance(target, np.dtype) and state[1] == ">":
            raise CheckpointError("stores its numbers in big-endian order, which im2sp does not read")
        elif callable(target) or isinstance(target, np.ndarray):
            raise TypeError

    def build_bytearray(self) -> None:
        """Opcode BYTEARRAY8, without taking memory for more bytes than there are."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    def _joblib_array(self, state: dict[str, Any]) -> object:
        if not isinstance(state["dtype"], np.dtype):  # an array of objects is a pickle of its own
            return AllowListUnpickler(self._file).load()
        if state.get("numpy_array_alignment_bytes") is not None:
            self._file.read(self._file.read(1)[0])
        size = math.prod(_sizes(state["shape"])) * state["dtype"].itemsize
        return _array(self._file.read(size), state["dtype"], state["shape"], state["order"])

    def _encode(self, text: str, encoding: str) -> bytes:
        """How pickle protocol 2 writes bytes."""
        if encoding not in ("latin1", "latin-1"):
            raise ValueError
        self._spend(text)
        return text.encode("latin1")

    def _spend(self, copied: str | bytes) -> None:
        """Bound what a stream makes of few bytes by copying them again and again."""
        self._copied += len(copied)
        if self._copied > COPIED_BYTES:
            raise CheckpointError("copies the same bytes over and over")


_RENAMED = {  # modules: by Python 2, numpy 2 and old scikit-learn
    "__builtin__": "builtins", "copy_reg": "copyreg", "numpy._core": "numpy.core",
    "sklearn.externals.joblib": "joblib",
}  # fmt: skip


def _dtype(name: str | bytes, *_: object) -> object:
    text = name.decode("ascii") if isinstance(name, bytes) else name
    return np.dtype(text) if _NUMBERS.fullmatch(text) else AttributeBag()


def _empty_array(*_: object) -> np.ndarray:
    """numpy's `_reconstruct`: an array that BUILD fills."""
    return np.empty(0, np.uint8)


def _array(data: bytes | bytearray, dtype: object, shape: object, order: str) -> object:
    """Raw bytes -> array without a copy."""
    if not isinstance(dtype, np.dtype):
        return AttributeBag()
    if not isinstance(data, bytes | bytearray):
        raise TypeError
    return np.frombuffer(data, dtype).reshape(_sizes(shape), order="F" if order == "F" else "C")


def _sizes(shape: Any) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if len(sizes) > 32 or not all(isinstance(size, int) and 0 <= size < 2**48 for size in sizes):
        raise ValueError
    return sizes


def _tensor(storage: torch.TypedStorage, offset: int, size: object, stride: object, *_: object) -> torch.Tensor:
    """A view of a storage that stays inside it and is not larger than it."""
    sizes, strides = _sizes(size), _sizes(stride)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    count, held = math.prod(sizes), len(storage)
    if offset < 0 or count > held or (count and last >= held):
        raise CheckpointError("has a tensor that reaches beyond its data")
    return torch._utils._rebuild_tensor(storage, offset, sizes, strides)


def _parameter(data: object, *_: object) -> object:
    return data


def _dict(pairs: Iterable[tuple[object, object]] = ()) -> dict[object, object]:
    return {_checked(key): value for key, value in pairs}


def _set(items: Iterable[object] = ()) -> set[object]:
    return {_checked(item) for item in items}


def _reconstructor(kind: type[AttributeBag], *_: object) -> AttributeBag:
    """How pickle protocols 0 and 1 make an object."""
    if not issubclass(kind, AttributeBag):
        raise TypeError
    return kind()


def _checked(key: object) -> object:
    """Refuse keys that hash slowly: nested tuples could take for ever, and large numbers can be made to collide."""
    for part in key if isinstance(key, tuple) else (key,):
        small = not isinstance(part, int) or abs(part) < 2**63
        if not (small and (part is None or isinstance(part, str | bytes | int | float | type | AttributeBag))):
            raise TypeError
    return key


def _counted(load: Opcode) -> Opcode:
    return lambda unpickler: unpickler.count(load)


def _with_checked_keys(load: Opcode, keys: slice) -> Opcode:
    def checked(unpickler: AllowListUnpickler) -> None:
        for key in unpickler.stack[keys]:
            _checked(key)
        load(unpickler)

    return checked


def _dispatch() -> dict[int, Opcode]:
    """{opcode: what executes it}: those of pickle, with bounds."""
    found: dict[int, Opcode] = dict(pickle._Unpickler.dispatch)
    found[pickle.BUILD[0]] = AllowListUnpickler.build
    found[pickle.BYTEARRAY8[0]] = AllowListUnpickler.build_bytearray
    hashed = {  # the places on the stack of what becomes a key
        pickle.SETITEM: slice(-2, -1), pickle.SETITEMS: slice(0, None, 2), pickle.DICT: slice(0, None, 2),
        pickle.ADDITEMS: slice(None), pickle.FROZENSET: slice(None),
    }  # fmt: skip
    for opcode, keys in hashed.items():
        found[opcode[0]] = _with_checked_keys(found[opcode[0]], keys)
    return {opcode: _counted(load) for opcode, load in found.items()}


AllowListUnpickler.dispatch = _dispatch()


def load_pickle(file: BinaryIO, **options: Any) -> object:
    """The value of the pickle at the position of `file`, which is left behind its last byte."""
    return AllowListUnpickler(file, **options).load()


PICKLE_MODULE = SimpleNamespace(__name__=__name__, Unpickler=AllowListUnpickler, load=load_pickle)  # for torch.load
