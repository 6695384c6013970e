"""A tiny bundle that keeps the whole signature (docs/bundle.md): real graphs with seeded random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from onnx import TensorProto, checker, helper, numpy_helper, save

from im2sp.bundle import (
    SPECIAL_TOKENS,
    BundleConfig,
    ConfidenceConfig,
    DecoderConfig,
    DecodingDefaults,
    ImageConfig,
    ImageUnitsConfig,
    PCAConfig,
    SpeechEncoderConfig,
    VocabularyConfig,
    VocoderConfig,
    write_checksums,
    write_config,
)
from im2sp.files import sha256_of
from im2sp.onnx import Tensor, signatures
from im2sp.speech.audio import HOP

UNITS = 20
SUBWORDS = [*([unit] for unit in range(UNITS)), [3, 7], [1, 2], [1, 2, 3], [7, 3]]
LAYERS, HEADS, HEAD_DIM = 2, 2, 8
WIDTH = HEADS * HEAD_DIM
GRID, PATCH = 3, 16
IMAGE_TOKENS = GRID * GRID
POSITIONS = 48
CONTEXT = 4  # frames that the vocoder looks to each side: 2 by its first convolution, 1 each by the second and the last
DURATION_CONTEXT = 1  # units that the duration predictor looks to each side
CODES, CODEBOOK = 2, 16  # image units: two levels of brightness for each patch, where a bundle has them


def tiny_config() -> BundleConfig:
    """The config of the tiny bundle."""
    return BundleConfig(
        name="tiny",
        version="0.0.1",
        description="random weights for tests",
        license="Apache-2.0",
        language="none",
        created="2024-01-01",
        image=ImageConfig(
            height=GRID * PATCH,
            width=GRID * PATCH,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            image_tokens=IMAGE_TOKENS,
            grid=(GRID, GRID),
        ),
        decoder=DecoderConfig(
            layers=LAYERS,
            heads=HEADS,
            head_dim=HEAD_DIM,
            vocabulary_size=SPECIAL_TOKENS + len(SUBWORDS),
            max_tokens=POSITIONS,
        ),
        vocabulary=VocabularyConfig(units=UNITS, subwords=SUBWORDS),
        vocoder=VocoderConfig(
            units=UNITS, context_frames=CONTEXT, duration_context=DURATION_CONTEXT, duration_tolerance=1.5
        ),
        speech_encoder=SpeechEncoderConfig(units=UNITS, samples_limit=16_000),
        decoding=DecodingDefaults(beam=3, length_penalty=1.0, max_tokens=40),
        training={"data": "none", "steps": 0},
        parameters={"decoder": 12_345},
    )


def tiny_image_units(checksum: str = "0" * 64, *, reconstructs: bool = True) -> ImageUnitsConfig:
    """The image units of a tiny bundle that has them."""
    return ImageUnitsConfig(
        kind="semantic",
        tokenizer="tiny-semantic",
        checksum=checksum,
        grid=(GRID, GRID),
        codes=CODES,
        codebook_size=CODEBOOK,
        reconstructs=reconstructs,
    )


def tiny_confidence(**changes: Any) -> ConfidenceConfig:
    """A calibration that fits nothing, but the format."""
    directions = np.eye(WIDTH)[[2, 5]].tolist()
    config = ConfidenceConfig(
        intercept=1.5,
        weights={"score": 0.5, "length": -0.25},
        pca=PCAConfig(mean=[0.1] * WIDTH, components=directions, deviations=[0.5, 0.25]),
        threshold=0.25,
        abstain_units=[3, 7, 3, 1],
        abstain_durations=[5, 4, 6, 9],
    )
    return replace(config, **changes)


def hedging_confidence(hedge_threshold: float, threshold: float = 0.0) -> ConfidenceConfig:
    """A calibration with a hedge."""
    hedge = {"hedge_units": [7, 2, 7], "hedge_durations": [3, 8, 5], "hedge_threshold": hedge_threshold}
    return tiny_confidence(threshold=threshold, **hedge)


def write_tiny_bundle(
    folder: Path, seed: int = 0, *, image_units: bool = False, confidence: ConfidenceConfig | None = None
) -> Path:
    """Write the tiny bundle into `folder` (made if needed) and return it; with `image_units`, it tokenizes photos."""
    folder.mkdir(parents=True, exist_ok=True)
    more = {"image_units": tiny_image_units() if image_units else None, "confidence": confidence}
    config = replace(tiny_config(), **more)
    for name, signature in signatures(config).items():
        graph = _Graph(np.random.default_rng([seed, *name.encode()]))
        _BUILDERS[name](graph)
        graph.save(folder / f"{name}.onnx", dict(signature.inputs), dict(signature.outputs))
    if image_units:
        checksum = sha256_of(folder / "image_tokenizer.onnx")
        config = replace(config, image_units=tiny_image_units(checksum))
    (folder / "README.md").write_text("# tiny\nRandom weights for tests.\n", encoding="utf-8")
    write_config(folder, config)
    write_checksums(folder)
    return folder


class _Graph:
    """Nodes and weights of one graph; every method returns the name of what it adds."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def constant(self, array: np.ndarray | np.generic) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def numbers(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((self._random.normal(size=shape) * scale).astype(np.float32))

    def add(self, op: str, *inputs: str, to_name: str = "", **attributes: Any) -> str:
        name = to_name or f"{op}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def linear(self, x: str, rows: int, columns: int, scale: float = 1.0) -> str:
        return self.add("MatMul", x, self.weight(rows, columns, scale=scale / rows**0.5))

    def convolution(self, x: str, rows: int, columns: int, width: int, op: str = "Conv", **attributes: Any) -> str:
        shape = (columns, rows, width) if op == "Conv" else (rows, columns, width)
        return self.add(op, x, self.weight(*shape, scale=(rows * width) ** -0.5), **attributes)

    def save(self, path: Path, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        made = [[_value(name, tensor) for name, tensor in group.items()] for group in (inputs, outputs)]
        graph = helper.make_graph(self._nodes, path.stem, *made, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        checker.check_model(model)
        save(model, str(path))


def _value(name: str, tensor: Tensor) -> Any:
    kind = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}[tensor.dtype]
    return helper.make_tensor_value_info(name, kind, tensor.dims)


def _image_encoder(g: _Graph) -> None:
    """Mean colour of each patch -> keys and values of every layer."""
    _prefix(g, _patches(g, channels=3), 3)


def _patches(g: _Graph, channels: int) -> str:
    """pixels -> the mean of each patch, mixed down to so many channels: [batch, IMAGE_TOKENS, channels]."""
    pooled = g.add("AveragePool", "pixels", kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH])
    patches = g.add("Transpose", g.add("Reshape", pooled, g.numbers(0, 3, IMAGE_TOKENS)), perm=[0, 2, 1])
    return patches if channels == 3 else g.linear(patches, 3, channels)


def _prefix(g: _Graph, patches: str, channels: int) -> None:
    """[batch, IMAGE_TOKENS, channels] -> keys and values of every layer."""
    for name in ("prefix_keys", "prefix_values"):
        flat = g.add("Tanh", g.linear(patches, channels, LAYERS * WIDTH, scale=3))
        split = g.add("Reshape", flat, g.numbers(0, IMAGE_TOKENS, LAYERS, HEADS, HEAD_DIM))
        g.add("Transpose", split, to_name=name, perm=[2, 0, 3, 1, 4])


def _image_tokenizer(g: _Graph) -> None:
    """CODES mixtures of the colours of each patch, each rounded to one of CODEBOOK levels."""
    middle = g.constant(np.float32([CODEBOOK / 2]))
    levels = g.add("Floor", g.add("Add", g.add("Mul", g.add("Tanh", _patches(g, CODES)), middle), middle))
    bounds = [g.constant(np.array(bound, dtype=np.float32)) for bound in (0, CODEBOOK - 1)]
    whole = g.add("Cast", g.add("Clip", levels, *bounds), to=TensorProto.INT64)
    g.add("Reshape", whole, g.numbers(0, IMAGE_TOKENS * CODES), to_name="image_units")


def _image_decoder_prefix(g: _Graph) -> None:
    vectors = g.add("Gather", g.weight(CODEBOOK, 2), "image_units")
    _prefix(g, g.add("Reshape", vectors, g.numbers(0, IMAGE_TOKENS, 2 * CODES)), 2 * CODES)


def _image_decoder(g: _Graph) -> None:
    """Each patch in the colour of its units."""
    vectors = g.add("Gather", g.weight(CODEBOOK, 3), "image_units")
    cells = g.add("Reshape", vectors, g.numbers(0, GRID, GRID, CODES * 3))
    colours = g.add("Sigmoid", g.add("Transpose", g.linear(cells, CODES * 3, 3), perm=[0, 3, 1, 2]))
    scales = g.constant(np.array([1, 1, PATCH, PATCH], dtype=np.float32))
    g.add("Resize", colours, "", scales, to_name="pixels", mode="nearest")


def _decoder(g: _Graph) -> None:
    """Two layers of attention over prefix and past; the end grows likelier with each position."""
    vocabulary = SPECIAL_TOKENS + len(SUBWORDS)
    x = g.add("Gather", g.weight(vocabulary, WIDTH), "tokens")
    x = g.add("Add", x, g.add("Gather", g.weight(POSITIONS, WIDTH, scale=0.5), "position"))
    keys, values, looks = [], [], []
    for layer in range(LAYERS):
        mixed, key, value, look = _attention(g, x, layer)
        x = g.add("Add", x, mixed)
        x = g.add("Add", x, g.linear(g.add("Tanh", g.linear(x, WIDTH, 2 * WIDTH)), 2 * WIDTH, WIDTH))
        keys.append(key)
        values.append(value)
        looks.append(look)
    g.add("Concat", *keys, to_name="keys", axis=0)
    g.add("Concat", *values, to_name="values", axis=0)
    both = g.add("Concat", *looks, axis=1)  # [batch, layers * heads, 1, image_tokens]
    g.add("ReduceMean", both, to_name="attention", axes=[1, 2], keepdims=0)
    end = np.zeros((POSITIONS, vocabulary), dtype=np.float32)
    end[:, 2] = np.linspace(-2, 8, POSITIONS)
    growing = g.add("Gather", g.constant(end), "position")
    g.add("Add", g.linear(x, WIDTH, vocabulary, scale=1.5), growing, to_name="logits")


def _attention(g: _Graph, x: str, layer: int) -> tuple[str, str, str, str]:
    """x [batch, width] -> (mixed [batch, width], key and value of this position [1, batch, heads, 1, head_dim], share
    of attention on the prefix [batch, heads, 1, image_tokens]).
    """
    heads = g.numbers(-1, HEADS, 1, HEAD_DIM)
    query, key, value = (g.add("Reshape", g.linear(x, WIDTH, WIDTH), heads) for _ in range(3))
    past = g.add(
        "Where", _is_past(g, layer), g.add("MatMul", query, f"past_keys_{layer}"), g.constant(np.float32(-1e9))
    )
    scores = [
        g.add("MatMul", query, f"prefix_keys_{layer}"),
        past,
        g.add("MatMul", query, g.add("Transpose", key, perm=[0, 1, 3, 2])),
    ]
    share = g.add("Softmax", g.add("Concat", *scores, axis=3), axis=3)
    on_image = g.add("Slice", share, g.numbers(0), g.numbers(IMAGE_TOKENS), g.numbers(3))
    on_tokens = g.add("Slice", share, g.numbers(IMAGE_TOKENS), g.numbers(2**31), g.numbers(3))
    image = g.add("MatMul", on_image, f"prefix_values_{layer}")
    tokens = g.add("MatMul", on_tokens, g.add("Concat", f"past_values_{layer}", value, axis=2))
    mixed = g.add("Reshape", g.add("Add", image, tokens), g.numbers(-1, WIDTH))
    first = g.numbers(0)
    return mixed, g.add("Unsqueeze", key, first), g.add("Unsqueeze", value, first), on_image


def _is_past(g: _Graph, layer: int) -> str:
    """Which positions of the cache are filled: bool [capacity]."""
    capacity = g.add("Gather", g.add("Shape", f"past_keys_{layer}"), g.constant(np.int64(3)))
    places = g.add("Range", g.constant(np.int64(0)), capacity, g.constant(np.int64(1)))
    return g.add("Less", places, "position")


def _embedded(g: _Graph, name: str, width: int) -> str:
    """Numbers of units int64 [1, F] -> [1, width, F]."""
    return g.add("Transpose", g.add("Gather", g.weight(UNITS, width), name), perm=[0, 2, 1])


def _duration_predictor(g: _Graph) -> None:
    hidden = g.add("Tanh", g.convolution(_embedded(g, "units", 8), 8, 8, 3, pads=[1, 1]))
    logs = g.add("Reshape", g.convolution(hidden, 8, 1, 1), g.numbers(1, -1))
    g.add(
        "Add", g.add("Mul", logs, g.constant(np.float32([0.5]))), g.constant(np.float32([1.5])), to_name="log_durations"
    )


def _vocoder(g: _Graph) -> None:
    hidden = g.add("Tanh", g.convolution(_embedded(g, "frames", 16), 16, 16, 5, pads=[2, 2]))
    hidden = g.add("Tanh", g.convolution(hidden, 16, 16, 3, pads=[1, 1]))
    overlap = HOP // 2  # each frame reaches half a frame into its neighbours
    samples = g.convolution(hidden, 16, 1, 2 * HOP, op="ConvTranspose", strides=[HOP], pads=[overlap, overlap])
    loud = g.add("Mul", samples, g.constant(np.float32([20])))
    g.add("Reshape", g.add("Tanh", loud), g.numbers(1, -1), to_name="waveform")


def _speech_encoder(g: _Graph) -> None:
    signal = g.add("Unsqueeze", "waveform", g.numbers(1))
    scores = g.convolution(signal, 1, UNITS, 400, strides=[HOP])
    g.add("ArgMax", scores, to_name="units", axis=1, keepdims=0)


_BUILDERS = {
    "image_encoder": _image_encoder,
    "image_tokenizer": _image_tokenizer,
    "image_decoder_prefix": _image_decoder_prefix,
    "image_decoder": _image_decoder,
    "decoder": _decoder,
    "duration_predictor": _duration_predictor,
    "vocoder": _vocoder,
    "speech_encoder": _speech_encoder,
}
