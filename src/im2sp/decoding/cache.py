"""What the decoder remembers of the tokens so far: keys and values of a step in, the cache of the next step out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from im2sp.arrays import FloatArray, IntArray

GROWTH = 64  # positions that room is made for at once: the longest masked rest, and how rarely a cache moves

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class KeyValues:
    """For a decoder that gives its cache anew at every step: float32 [layers, batch, heads, past, head_dim]."""

    keys: FloatArray
    values: FloatArray

    @classmethod
    def empty(cls, layers: int, batch: int, heads: int, head_dim: int) -> Self:
        """The cache before the first token."""
        nothing = np.zeros((layers, batch, heads, 0, head_dim), dtype=np.float32)
        return cls(nothing, nothing)

    def inputs(self) -> dict[str, FloatArray]:
        """What the graph takes."""
        return {"past_keys": self.keys, "past_values": self.values}

    def stored(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """One for each hypothesis -> in the order of the rows of `inputs`."""
        return values

    def asked(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """The way back."""
        return values

    def extended(self, keys: FloatArray, values: FloatArray) -> KeyValues:
        """The cache that a step gave, [layers, batch, heads, past + 1, head_dim]."""
        return KeyValues(keys, values)

    def reorder(self, indices: IntArray) -> KeyValues:
        """Keep, repeat or drop hypotheses: row i of the result is row `indices[i]` of this cache."""
        if np.array_equal(indices, np.arange(self.keys.shape[1])):
            return self  # greedy search and sampling never pay for a copy
        return KeyValues(self.keys[:, indices], self.values[:, indices])


class KeptKeyValues:
    """For a decoder that gives only what is new: it stays where it is, with room for GROWTH positions more at a time.

    Keys are float32 [layers, rows, heads, head_dim, capacity], values [layers, rows, heads, capacity, head_dim]. A
    hypothesis has a row, in any order; where one goes on as several, one of them keeps the row and the others get
    copies. `reorder` and `extended` change it and return it.
    """

    def __init__(self, keys: FloatArray, values: FloatArray, batch: int) -> None:
        self._keys = keys
        self._values = values
        self._row = np.arange(batch)  # of each hypothesis; together they are 0 .. batch - 1
        self._length = 0  # positions that are known

    @classmethod
    def empty(cls, layers: int, batch: int, heads: int, head_dim: int) -> Self:
        """The cache before the first token."""
        shape = (layers, batch, heads, GROWTH, head_dim)
        # Zeros: what is masked must still be numbers.
        keys, values = np.zeros(shape, dtype=np.float32).swapaxes(3, 4), np.zeros(shape, dtype=np.float32)
        return cls(np.ascontiguousarray(keys), values, batch)

    def inputs(self) -> dict[str, FloatArray]:
        """What the graph takes, without a copy."""
        batch = len(self._row)
        inputs = {f"past_keys_{layer}": keys[:batch] for layer, keys in enumerate(self._keys)}
        return inputs | {f"past_values_{layer}": values[:batch] for layer, values in enumerate(self._values)}

    def stored(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """One for each hypothesis -> in the order of the rows of `inputs`."""
        placed = np.empty_like(values)
        placed[self._row] = values
        return placed

    def asked(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """The way back."""
        return values[self._row]

    def extended(self, keys: FloatArray, values: FloatArray) -> Self:
        """With the keys and values of one position more, [layers, batch, heads, 1, head_dim], rows as in `inputs`."""
        batch = len(self._row)
        if self._length == self._values.shape[3]:
            self._resize(self._values.shape[1], self._length + GROWTH)
        self._keys[:, :batch, :, :, self._length] = keys[:, :, :, 0]
        self._values[:, :batch, :, self._length] = values[:, :, :, 0]
        self._length += 1
        return self

    def reorder(self, indices: IntArray) -> Self:
        """Keep, repeat or drop hypotheses: hypothesis i goes on as `indices[i]` did so far."""
        batch = len(indices)
        if batch > self._values.shape[1]:
            self._resize(batch, self._values.shape[3])
        origins = self._row[indices]
        rows = np.full(batch, -1)
        for index, origin in enumerate(origins):
            if origin < batch and origin not in rows:
                rows[index] = origin
        free = np.setdiff1d(np.arange(batch), rows)
        # Nothing is written where something is still to be read: a row below `batch` with a heir is not free.
        for index, row in zip(np.flatnonzero(rows < 0).tolist(), free.tolist(), strict=True):
            self._keys[:, row, :, :, : self._length] = self._keys[:, origins[index], :, :, : self._length]
            self._values[:, row, :, : self._length] = self._values[:, origins[index], :, : self._length]
            rows[index] = row
        self._row = rows
        return self

    def _resize(self, rows: int, capacity: int) -> None:
        """Move to arrays with so much room."""
        layers, known, heads, _, head_dim = self._values.shape
        keys = np.zeros((layers, rows, heads, head_dim, capacity), dtype=np.float32)
        values = np.zeros((layers, rows, heads, capacity, head_dim), dtype=np.float32)
        keys[:, :known, :, :, : self._length] = self._keys[..., : self._length]
        values[:, :known, :, : self._length] = self._values[:, :, :, : self._length]
        self._keys, self._values = keys, values
