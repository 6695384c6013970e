"""The decoder graph as a step function: image prefix and last tokens in, logits, attention and KV cache out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.bundle import DecoderConfig
from im2sp.decoding.cache import KVCache
from im2sp.errors import BundleError
from im2sp.onnx import Graph


@dataclass(frozen=True)
class Prefix:
    """What the decoder gets of one image.

    Attributes:
        keys, values: float32 [layers, 1, heads, image_tokens, head_dim].
        token_bonus: float32 [vocabulary_size], see `DecodingTask`.
        token_evidence: float32 [vocabulary_size], the log odds that a caption of the image holds each token, 0 for
            tokens that say nothing about an image.
    """

    keys: FloatArray
    values: FloatArray
    token_bonus: FloatArray | None = None
    token_evidence: FloatArray | None = None


class DecoderStep:
    """A `StepFunction` over the decoder graph, for one image."""

    def __init__(self, graph: Graph, config: DecoderConfig, prefix: Prefix) -> None:
        self._graph = graph
        self._config = config
        self._prefix = _by_layer(prefix)

    def __call__(
        self, tokens: IntArray, position: int, cache: KVCache | None
    ) -> tuple[FloatArray, FloatArray, KVCache]:
        """Run one step: tokens int64 [batch] at `position` -> (logits float32 [batch, vocabulary], attention float32
        [batch, image_tokens], cache). `cache` is None before the first token; it is changed in place and returned.

        """
        config = self._config
        past = cache or KVCache.empty(config.layers, len(tokens), config.heads, config.head_dim)
        logits, keys, values, attention = self._graph.run(
            tokens=past.to_rows(tokens),
            position=np.array([position], dtype=np.int64),
            **self._prefix,
            **past.inputs(),
        )
        past.append(keys, values)
        return past.from_rows(logits), past.from_rows(attention), past


def _by_layer(prefix: Prefix) -> dict[str, FloatArray]:
    """Split the prefix into graph inputs: keys [heads, head_dim, image_tokens], values [heads, image_tokens, head_dim].

    Copied once per photo, not once per token. Raises BundleError for the prefixes of several images.
    """
    if prefix.keys.shape[1] != 1:
        raise BundleError(f"the decoder takes one image at a time, not {prefix.keys.shape[1]}: give it one prefix each")
    keys, values = np.ascontiguousarray(prefix.keys[:, 0].swapaxes(2, 3)), np.ascontiguousarray(prefix.values[:, 0])
    inputs = {f"prefix_keys_{layer}": key for layer, key in enumerate(keys)}
    return inputs | {f"prefix_values_{layer}": value for layer, value in enumerate(values)}
