"""The decoder graph as a step function: image prefix and last tokens in, logits, attention and key/value cache out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.bundle import DecoderConfig
from im2sp.decoding.cache import KeptKeyValues, KeyValues
from im2sp.errors import BundleError
from im2sp.onnx import Graph

__all__ = ["DecoderStep", "KeptKeyValues", "KeyValues", "Prefix"]


@dataclass(frozen=True)
class Prefix:
    """What the decoder knows of an image: keys and values float32 [layers, 1, heads, image_tokens, head_dim]."""

    keys: FloatArray
    values: FloatArray


class DecoderStep:
    """A `decoding.StepFunction` over the decoder graph, for one image."""

    def __init__(self, graph: Graph, config: DecoderConfig, prefix: Prefix) -> None:
        self._graph = graph
        self._config = config
        self._prefix = _by_layer(prefix) if config.cache == "kept" else _whole(prefix)

    def __call__(
        self, tokens: IntArray, position: int, cache: KeyValues | KeptKeyValues | None
    ) -> tuple[FloatArray, FloatArray, KeyValues | KeptKeyValues]:
        """tokens int64 [batch] at `position` -> (logits float32 [batch, vocabulary], attention float32
        [batch, image_tokens], cache). `cache` is None before the first token, and used up by what is returned.
        """
        past = cache or self._nothing(len(tokens))
        logits, keys, values, attention = self._graph.run(
            tokens=past.stored(tokens),
            position=np.array([position], dtype=np.int64),
            **self._prefix,
            **past.inputs(),
        )
        wanted = (len(tokens), self._config.vocabulary_size)
        positions = 1 if self._config.cache == "kept" else position + 1
        if logits.shape != wanted or keys.shape != values.shape or keys.shape[3] != positions:
            shapes = f"logits {list(logits.shape)} and keys {list(keys.shape)} at position {position}"
            raise BundleError(f"{self._graph.label} gave {shapes}, which its config.json rules out: export it again")
        return past.asked(logits), past.asked(attention), past.extended(keys, values)

    def _nothing(self, batch: int) -> KeyValues | KeptKeyValues:
        config = self._config
        kind = KeptKeyValues if config.cache == "kept" else KeyValues
        return kind.empty(config.layers, batch, config.heads, config.head_dim)


def _whole(prefix: Prefix) -> dict[str, FloatArray]:
    """The prefix for a decoder that gives its cache anew."""
    return {"prefix_keys": prefix.keys, "prefix_values": prefix.values}


def _by_layer(prefix: Prefix) -> dict[str, FloatArray]:
    """The prefix for a decoder that is handed its cache layer by layer: keys [heads, head_dim, image_tokens], values
    [heads, image_tokens, head_dim]; copied once a photo, not once a token.

    Raises BundleError for the prefixes of several images.
    """
    if prefix.keys.shape[1] != 1:
        raise BundleError(f"the decoder takes one image at a time, not {prefix.keys.shape[1]}: give it one prefix each")
    keys, values = np.ascontiguousarray(prefix.keys[:, 0].swapaxes(2, 3)), np.ascontiguousarray(prefix.values[:, 0])
    inputs = {f"prefix_keys_{layer}": key for layer, key in enumerate(keys)}
    return inputs | {f"prefix_values_{layer}": value for layer, value in enumerate(values)}
