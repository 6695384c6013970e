"""Signatures of the ONNX graphs: a bundle's config in, named inputs and outputs with dtypes and shapes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from im2sp.bundle import BundleConfig, DecoderConfig

DType = Literal["float32", "int64"]


@dataclass(frozen=True)
class Tensor:
    """dtype and dimensions of an input or output: a number where fixed, a word where free."""

    dtype: DType
    dims: tuple[int | str, ...]


@dataclass(frozen=True)
class Signature:
    """Named inputs and outputs of a graph, in order."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


def signatures(config: BundleConfig) -> dict[str, Signature]:
    """Return the signature of every graph of a bundle with this config (docs/bundle.md)."""
    image, decoder = config.image, config.decoder

    def floats(*dims: int | str) -> Tensor:
        return Tensor("float32", dims)

    def ints(*dims: int | str) -> Tensor:
        return Tensor("int64", dims)

    def cache(batch: str, length: int | str) -> Tensor:
        return floats(decoder.layers, batch, decoder.heads, length, decoder.head_dim)

    prefix = {name: cache("batch", image.image_tokens) for name in ("prefix_keys", "prefix_values")}
    prefix |= {name: floats("batch", decoder.vocabulary_size) for name in decoder.by_token}
    pixels = {"pixels": floats("batch", 3, image.height, image.width)}
    image_units = {"image_units": ints("batch", config.image_units.units if config.image_units else 0)}
    found = {
        "image_encoder": Signature(pixels, prefix),
        "image_tokenizer": Signature(pixels, image_units),
        "image_decoder_prefix": Signature(image_units, prefix),
        "image_decoder": Signature(image_units, pixels),
        "decoder": Signature(
            {"tokens": ints("batch"), "position": ints(1), **_cache_inputs(decoder, image.image_tokens)},
            {
                "logits": floats("batch", decoder.vocabulary_size),
                "keys": cache("batch", 1),
                "values": cache("batch", 1),
                "attention": floats("batch", image.image_tokens),
            },
        ),
        "duration_predictor": Signature({"units": ints(1, "units")}, {"log_durations": floats(1, "units")}),
        "vocoder": Signature({"frames": ints(1, "frames")}, {"waveform": floats(1, "samples")}),
        "speech_encoder": Signature({"waveform": floats(1, "samples")}, {"units": ints(1, "frames")}),
    }
    return {name: found[name] for name in config.graphs}


def _cache_inputs(decoder: DecoderConfig, image_tokens: int) -> dict[str, Tensor]:
    """Inputs of the decoder that hold the image prefix and the KV cache, layer by layer."""
    heads, size = decoder.heads, decoder.head_dim
    shapes: dict[str, tuple[int | str, ...]] = {
        "prefix_keys": (heads, size, image_tokens),
        "prefix_values": (heads, image_tokens, size),
        "past_keys": ("batch", heads, size, "capacity"),
        "past_values": ("batch", heads, "capacity", size),
    }
    return {
        f"{name}_{index}": Tensor("float32", dims) for index in range(decoder.layers) for name, dims in shapes.items()
    }
