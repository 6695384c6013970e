"""The decoder graph as a step function: image prefix and last tokens in, logits, attention and key/value cache out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.bundle import DecoderConfig
from im2sp.errors import BundleError
from im2sp.graphs import Graph


@dataclass(frozen=True)
class Prefix:
    """What the decoder knows of an image: keys and values float32 [layers, 1, heads, image_tokens, head_dim]."""

    keys: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class KeyValues:
    """What the decoder knows of the tokens so far: keys and values float32 [layers, batch, heads, past, head_dim]."""

    keys: FloatArray
    values: FloatArray

    def reorder(self, indices: IntArray) -> KeyValues:
        """Keep, repeat or drop hypotheses: row i of the result is row `indices[i]` of this cache."""
        if np.array_equal(indices, np.arange(self.keys.shape[1])):
            return self  # greedy search and sampling never pay for a copy
        return KeyValues(self.keys[:, indices], self.values[:, indices])


class DecoderStep:
    """A `decoding.StepFunction` over the decoder graph, for one image."""

    def __init__(self, graph: Graph, config: DecoderConfig, prefix: Prefix) -> None:
        self._graph = graph
        self._config = config
        self._prefix = prefix

    def __call__(
        self, tokens: IntArray, position: int, cache: KeyValues | None
    ) -> tuple[FloatArray, FloatArray, KeyValues]:
        """tokens int64 [batch] at `position` -> (logits float32 [batch, vocabulary], attention float32
        [batch, image_tokens], cache). `cache` is None before the first token.
        """
        past = cache or self._nothing(len(tokens))
        logits, keys, values, attention = self._graph.run(
            tokens=tokens,
            position=np.array([position], dtype=np.int64),
            prefix_keys=self._prefix.keys,
            prefix_values=self._prefix.values,
            past_keys=past.keys,
            past_values=past.values,
        )
        wanted = (len(tokens), self._config.vocabulary_size)
        if logits.shape != wanted or keys.shape != values.shape or keys.shape[3] != position + 1:
            shapes = f"logits {list(logits.shape)} and keys {list(keys.shape)} at position {position}"
            raise BundleError(f"{self._graph.label} gave {shapes}, which its config.json rules out: export it again")
        return logits, attention, KeyValues(keys, values)

    def _nothing(self, batch: int) -> KeyValues:
        empty = np.zeros((self._config.layers, batch, self._config.heads, 0, self._config.head_dim), dtype=np.float32)
        return KeyValues(empty, empty)
