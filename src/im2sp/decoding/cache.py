"""KV cache of the decoder: keys and values of one step in, the cache of the next step out."""

from __future__ import annotations

from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from im2sp.arrays import FloatArray, IntArray

GROWTH = 64  # positions that the cache grows by: the most that is masked, and how rarely it is copied

Number = TypeVar("Number", bound=np.generic)


class KVCache:
    """Preallocated KV cache, changed in place.

    Keys are float32 [layers, rows, heads, head_dim, capacity], values [layers, rows, heads, capacity, head_dim]. Each
    hypothesis has a row, in any order. Where one continues as several, one keeps the row and the others get copies.
    """

    def __init__(self, keys: FloatArray, values: FloatArray, batch: int) -> None:
        self._keys = keys
        self._values = values
        self._row = np.arange(batch)  # of each hypothesis; together they are 0 .. batch - 1
        self._length = 0  # positions filled

    @classmethod
    def empty(cls, layers: int, batch: int, heads: int, head_dim: int) -> Self:
        """Make the cache before the first token."""
        shape = (layers, batch, heads, GROWTH, head_dim)
        # Zeros: what is masked must still be numbers.
        keys, values = np.zeros(shape, dtype=np.float32).swapaxes(3, 4), np.zeros(shape, dtype=np.float32)
        return cls(np.ascontiguousarray(keys), values, batch)

    def inputs(self) -> dict[str, FloatArray]:
        """Return the inputs of the graph, as views."""
        batch = len(self._row)
        inputs = {f"past_keys_{layer}": keys[:batch] for layer, keys in enumerate(self._keys)}
        return inputs | {f"past_values_{layer}": values[:batch] for layer, values in enumerate(self._values)}

    def to_rows(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Reorder [batch, ...] from the order of hypotheses to that of the rows in `inputs`."""
        placed = np.empty_like(values)
        placed[self._row] = values
        return placed

    def from_rows(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Undo `to_rows`."""
        return values[self._row]

    def append(self, keys: FloatArray, values: FloatArray) -> None:
        """Add one position: keys and values [layers, batch, heads, 1, head_dim], rows as in `inputs`."""
        batch = len(self._row)
        if self._length == self._values.shape[3]:
            self._resize(self._values.shape[1], self._length + GROWTH)
        self._keys[:, :batch, :, :, self._length] = keys[:, :, :, 0]
        self._values[:, :batch, :, self._length] = values[:, :, :, 0]
        self._length += 1

    def reorder(self, indices: IntArray) -> Self:
        """Keep, repeat or drop hypotheses: hypothesis i continues `indices[i]`. Returns this cache."""
        batch = len(indices)
        if batch > self._values.shape[1]:
            self._resize(batch, self._values.shape[3])
        origins = self._row[indices]
        rows = np.full(batch, -1)
        for index, origin in enumerate(origins):
            if origin < batch and origin not in rows:
                rows[index] = origin
        free = np.setdiff1d(np.arange(batch), rows)
        # Nothing is overwritten before it is read: a row below `batch` that a hypothesis keeps is not free.
        for index, row in zip(np.flatnonzero(rows < 0).tolist(), free.tolist(), strict=True):
            self._keys[:, row, :, :, : self._length] = self._keys[:, origins[index], :, :, : self._length]
            self._values[:, row, :, : self._length] = self._values[:, origins[index], :, : self._length]
            rows[index] = row
        self._row = rows
        return self

    def _resize(self, rows: int, capacity: int) -> None:
        """Move to larger arrays."""
        layers, known, heads, _, head_dim = self._values.shape
        keys = np.zeros((layers, rows, heads, head_dim, capacity), dtype=np.float32)
        values = np.zeros((layers, rows, heads, capacity, head_dim), dtype=np.float32)
        keys[:, :known, :, :, : self._length] = self._keys[..., : self._length]
        values[:, :known, :, : self._length] = self._values[:, :, :, : self._length]
        self._keys, self._values = keys, values
