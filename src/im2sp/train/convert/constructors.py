"""What may be built from a pickle: numpy arrays, torch tensors, ordered dicts. The whole allow list is CONSTRUCTORS."""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from torch import Tensor

from im2sp.train.convert.pickles import Constructor, Global, Record, Unfinished, checked_key
from im2sp.train.convert.streams import CheckpointError, Stream

_PLAIN_DTYPE = re.compile(r"[<>=|]?([fiu][1248]|b1)")  # numbers and booleans: nothing that holds objects

STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _DtypeShell(Unfinished):
    """A numpy dtype of numbers: named by its REDUCE, given its byte order by its BUILD."""

    def __init__(self, name: object, *_: object) -> None:
        self._name = name.decode("ascii") if isinstance(name, bytes) else name

    def build(self, state: object, stream: Stream) -> object:
        """State: (version, byte order, ...)."""
        if not isinstance(state, tuple) or len(state) < 2:
            raise TypeError
        self.value = self.with_order(state[1])
        return self.value

    def with_order(self, order: object) -> object:
        """Numbers become a dtype; anything else a record, so that arrays of it stay unread."""
        if (
            not isinstance(self._name, str)
            or not _PLAIN_DTYPE.fullmatch(self._name)
            or order not in ("<", ">", "=", "|")
        ):
            return Record(Global("numpy", "dtype"), (self._name,))
        return np.dtype(self._name).newbyteorder(order)


def _array(data: object, dtype: object, shape: object, order: str) -> object:
    """Raw bytes -> array without a copy; a record where the elements are not plain numbers."""
    if isinstance(dtype, _DtypeShell):  # nothing was said about the byte order
        dtype = dtype.with_order("=")
    if not isinstance(dtype, np.dtype):
        return Record(Global("numpy", "ndarray"))
    if isinstance(data, str):  # pickled by Python 2
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise TypeError
    return np.frombuffer(data, dtype).reshape(_sizes(shape), order="F" if order == "F" else "C")


def _sizes(shape: object) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else shape
    if not isinstance(sizes, tuple | list) or len(sizes) > 32:
        raise TypeError
    for size in sizes:
        if not isinstance(size, int) or not 0 <= size < 2**48:
            raise ValueError
    return tuple(sizes)


class _ArrayShell(Unfinished):
    """numpy's `_reconstruct`: an empty array that its BUILD fills."""

    def __init__(self, *_: object) -> None:
        pass

    def build(self, state: object, stream: Stream) -> object:
        """State: (version, shape, dtype, is Fortran order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise TypeError
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")
        return self.value


class _JoblibArray(Unfinished):
    """joblib's NumpyArrayWrapper: the bytes of the array stand in the stream behind its BUILD."""

    def __init__(self, *_: object) -> None:
        pass

    def build(self, state: object, stream: Stream) -> object:
        """State: the attributes of the wrapper."""
        if not isinstance(state, dict):
            raise TypeError
        dtype, sizes = state.get("dtype"), _sizes(state.get("shape"))
        if not isinstance(dtype, np.dtype):
            raise CheckpointError("has an array of something other than numbers")
        if state.get("numpy_array_alignment_bytes") is not None:
            stream.exactly(stream.exactly(1)[0])
        data = stream.exactly(math.prod(sizes) * dtype.itemsize)
        self.value = _array(data, dtype, sizes, str(state.get("order")))
        return self.value


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> object:
    return _array(data, dtype, shape, str(order))


def _scalar(dtype: object, data: object) -> object:
    array = _array(data, dtype, (), "C")
    return array.item() if isinstance(array, np.ndarray) else array


def _encode(text: object, encoding: object) -> object:
    """How pickle protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError
    return text.encode("latin-1")


def _ordered_dict(pairs: object = ()) -> object:
    if not isinstance(pairs, list | tuple):
        raise TypeError
    found: dict[object, object] = {}
    for pair in pairs:
        key, value = pair
        found[checked_key(key)] = value
    return found


def _set(items: object = ()) -> object:
    """How pickle protocols below 4 write sets."""
    if not isinstance(items, list | tuple):
        raise TypeError
    return set(map(checked_key, items))


def _reconstructor(kind: object, *_: object) -> object:
    """How pickle protocols 0 and 1 make a plain object."""
    if not isinstance(kind, Global):
        raise TypeError
    return Record(kind)


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> object:
    """A view of a storage that stays inside it and is not larger than it."""
    if not isinstance(storage, Tensor) or not isinstance(offset, int):
        raise TypeError
    sizes, strides = _sizes(size), _sizes(stride)
    if len(sizes) != len(strides) or offset < 0:
        raise ValueError
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    count = math.prod(sizes)
    if count > storage.numel() or (count and last >= storage.numel()):
        raise CheckpointError("has a tensor that reaches beyond its data")
    return torch.as_strided(storage, sizes, strides, offset) if count else storage.new_empty(sizes)


def _parameter(data: object, *_: object) -> object:
    return data


def _size(sizes: object) -> object:
    return _sizes(sizes)


CONSTRUCTORS: dict[Global, Constructor] = {
    Global(module, name): constructor
    for modules, name, constructor in (
        (("collections",), "OrderedDict", _ordered_dict),
        (("builtins", "__builtin__"), "set", _set),
        (("copyreg", "copy_reg"), "_reconstructor", _reconstructor),
        (("_codecs",), "encode", _encode),
        (("numpy",), "dtype", _DtypeShell),
        (("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct", _ArrayShell),
        (("numpy.core.multiarray", "numpy._core.multiarray"), "scalar", _scalar),
        (("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer", _from_buffer),
        (("joblib.numpy_pickle", "sklearn.externals.joblib.numpy_pickle"), "NumpyArrayWrapper", _JoblibArray),
        (("torch._utils",), "_rebuild_tensor", _tensor),
        (("torch._utils",), "_rebuild_tensor_v2", _tensor),
        (("torch._utils",), "_rebuild_parameter", _parameter),
        (("torch",), "Size", _size),
    )
    for module in modules
}
