"""A finished bundle -> the models in its graphs, so that training can go on from them.

Every matrix is known by the bias that is added to its products, which keeps its name through the export. Weights that
are stored as int8 come back as the float32 numbers that the runtime multiplies with.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from transformers import HubertModel

from im2sp.bundle import Bundle
from im2sp.errors import Im2SpError
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.models.speech_encoder import Clusters, SpeechEncoder, edge_padding, small_hubert_config
from im2sp.train.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig

Weights = dict[str, npt.NDArray[np.float32]]
_OF_TRANSLATOR, _JOINED, _OF_HUBERT = "translator.", "projections.", "hubert."


def read_translator(bundle: Bundle) -> GitDecoder:
    """The translator of a bundle that sees photos by image features, in evaluation mode.

    Raises:
        Im2SpError: the bundle sees image units, or its matrices are stored for products in int8.
    """
    if bundle.config.image_units is not None:
        raise Im2SpError(f"the bundle {bundle.folder} sees image units: its translator cannot be read back")
    sizes = bundle.config.decoder
    seeing, speaking = (_Graph(bundle.folder / f"{name}.onnx") for name in ("image_encoder", "decoder"))
    try:
        state = seeing.translator(sizes.head_dim) | speaking.translator(sizes.head_dim)
        eps, image_eps = speaking.norm_eps("embedding_norm.weight"), seeing.norm_eps("image_norm.weight")
        config = GitDecoderConfig(
            vocabulary_size=sizes.vocabulary_size,
            image_width=state["image_projection.weight"].shape[1],
            width=sizes.heads * sizes.head_dim,
            layers=sizes.layers,
            heads=sizes.heads,
            feed_forward=len(state["layers.0.intermediate.bias"]),
            max_positions=sizes.max_tokens,
            layer_norm_eps=eps,
            image_norm_eps=None if image_eps == eps else image_eps,
            tied=np.array_equal(state["output.weight"], state["word_embeddings.weight"]),
        )
        model = GitDecoder(config)
        _fill(model, state)
    except (KeyError, RuntimeError) as error:
        raise _unreadable("translator", bundle, error) from error
    return model.eval()


def read_voice(bundle: Bundle) -> tuple[UnitVocoder, DurationPredictor]:
    """The vocoder and the duration predictor of a bundle, in evaluation mode.

    Raises:
        Im2SpError: its vocoder is not one of ours, or cannot be read back.
    """
    speaking, timing = (_Graph(bundle.folder / f"{name}.onnx") for name in ("vocoder", "duration_predictor"))
    try:
        state, durations = speaking.weights(), timing.weights()
        config = VocoderConfig(
            units=bundle.config.vocabulary.units,
            width=state["embedding.weight"].shape[1],
            feed_forward=len(state["slow.0.expand.bias"]),
            slow_blocks=_blocks(state, "slow."),
            fast_blocks=_blocks(state, "fast."),
            kernel=state["first.weight"].shape[2],
            fft=len(state["head.bias"]) - 2,
            duration_width=durations["embedding.weight"].shape[1],
            duration_blocks=_blocks(durations, "blocks."),
            duration_kernel=durations["blocks.0.depthwise.weight"].shape[2],
        )
        vocoder, predictor = UnitVocoder(config), DurationPredictor(config)
        _fill(vocoder, state)
        _fill(predictor, durations)
    except (KeyError, RuntimeError) as error:
        raise _unreadable("voice", bundle, error) from error
    return vocoder.eval(), predictor.eval()


def read_speech_encoder(bundle: Bundle) -> SpeechEncoder:
    """The speech encoder of a bundle, in evaluation mode: one of ours, and not a converted one.

    Raises:
        Im2SpError: the bundle has none, or it cannot be read back.
    """
    path = bundle.folder / "speech_encoder.onnx"
    if not path.is_file():
        raise Im2SpError(f"the bundle {bundle.folder} has no speech encoder: give one that hears units (`im2sp units`)")
    graph = _Graph(path)
    try:
        state = graph.weights()
        hubert = _below(state, _OF_HUBERT)
        matrix = graph.matrix_added_to("offset")
        layers = len({name.split(".")[2] for name in hubert if name.startswith("encoder.layers.")})
        width = len(hubert["feature_projection.projection.bias"])
        config = small_hubert_config(layers, width, width // graph.size_of_heads(f"{_OF_HUBERT}encoder.layers.0."))
        model = HubertModel(config)
        hubert["masked_spec_embed"] = np.zeros(width, np.float32)  # used in training alone
        _fill(model, hubert)
    except (KeyError, ValueError, RuntimeError) as error:
        raise _unreadable("speech encoder", bundle, error) from error
    clusters = Clusters(matrix, state["offset"])
    cepstra = matrix.shape[1] > width
    return SpeechEncoder(model, layers, edge_padding(config), graph.averaged_frames(), cepstra, clusters).eval()


def _unreadable(part: str, bundle: Bundle, error: Exception) -> Im2SpError:
    return Im2SpError(
        f"the {part} of {bundle.folder} cannot be read back ({error}): give a trained bundle of `im2sp-lab export` "
        "whose matrices are not stored for products in int8"
    )


def _below(weights: Weights, prefix: str) -> Weights:
    """Those whose names begin with a prefix, by what follows it."""
    return {name.removeprefix(prefix): values for name, values in weights.items() if name.startswith(prefix)}


def _blocks(state: Weights, prefix: str) -> int:
    return len({name.split(".")[1] for name in state if name.startswith(prefix)})


def _fill(model: nn.Module, state: Weights) -> None:
    model.load_state_dict({name: _tensor(state[name]) for name in model.state_dict()})


def _tensor(values: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(values.copy())


class _Graph:
    """The weights of a graph as `im2sp.train.onnx_export` wrote it."""

    def __init__(self, path: Path) -> None:
        self._graph = onnx.load(str(path)).graph
        stored = {item.name: numpy_helper.to_array(item) for item in self._graph.initializer}
        self._values: Weights = {}
        for name, values in stored.items():
            if name.endswith(".int8") and (scale := stored.get(f"{name.removesuffix('.int8')}.scale")) is not None:
                self._values[name.removesuffix(".int8")] = values.astype(np.float32) * scale
            else:
                self._values[name.removesuffix(".fp16")] = values.astype(np.float32)

    def weights(self) -> Weights:
        """All that have a name, by it; matrices, which lose theirs, [out, in]."""
        found = dict(self._values)
        for bias, matrix in self._products():
            name = bias.removesuffix("bias") + "weight"
            if name in found and not np.array_equal(found[name], matrix):
                raise KeyError(f"{bias} of two matrices")  # the export joins biases that are equal, untrained ones, say
            found[name] = matrix
        return found

    def translator(self, head_dim: int) -> Weights:
        """By their names in a GitDecoder."""
        named = self.weights()
        found = _below(named, _OF_TRANSLATOR)
        for name in named:
            if name.startswith(_JOINED) and name.endswith(".weight"):
                found |= _apart(named, name.split(".")[1], head_dim)
        return found

    def matrix_added_to(self, name: str) -> npt.NDArray[np.float32]:
        """Of the product that a named vector is added to, [out, in]."""
        (inputs,) = (node.input for node in self._graph.node if node.op_type == "Add" and name in node.input)
        (factor,) = (value for value in inputs if value != name)
        (product,) = (node for node in self._graph.node if factor in node.output)
        return np.ascontiguousarray(self._values[product.input[1]].T)

    def size_of_heads(self, layer: str) -> int:
        """Of the attention in a layer of HuBERT: the width that its queries are cut to."""
        makers = {value: node for node in self._graph.node for value in node.output}
        query = f"{layer}attention.q_proj.bias"
        (added,) = (node.output[0] for node in self._graph.node if node.op_type == "Add" and query in node.input)
        (shape,) = (node.input[1] for node in self._graph.node if node.op_type == "Reshape" and node.input[0] == added)
        constant = makers[makers[shape].input[-1]]
        return int(numpy_helper.to_array(helper.get_attribute_value(constant.attribute[0])).item())

    def averaged_frames(self) -> int:
        """How many frames its averaging takes together; 1 where it has none."""
        for node in self._graph.node:
            if node.op_type == "AveragePool":
                return next(item.ints[0] for item in node.attribute if item.name == "kernel_shape")
        return 1

    def norm_eps(self, name: str) -> float:
        """What the layer norm with this weight adds to variances."""
        for node in self._graph.node:
            if node.op_type == "LayerNormalization" and _OF_TRANSLATOR + name in node.input:
                (eps,) = (helper.get_attribute_value(item) for item in node.attribute if item.name == "epsilon")
                return float(np.format_float_positional(np.float32(eps)))
        raise KeyError(name)

    def _products(self) -> list[tuple[str, npt.NDArray[np.float32]]]:
        """(name of the bias, matrix [out, in]) of every product with a matrix that a bias is added to."""
        biases = {
            value: other
            for node in self._graph.node
            if node.op_type == "Add"
            for value, other in (tuple(node.input), tuple(node.input)[::-1])
            if other.endswith(".bias")
        }
        found = []
        for node in self._graph.node:
            if len(node.input) < 2 or node.input[1] not in self._values:
                continue
            matrix = self._values[node.input[1]]
            if node.op_type == "MatMul" and node.output[0] in biases:
                found.append((biases[node.output[0]], matrix.T))
            elif node.op_type == "Gemm" and len(node.input) == 3:
                turned = any(item.name == "transB" and item.i for item in node.attribute)
                found.append((node.input[2], matrix if turned else matrix.T))
        return found


def _apart(weights: Weights, layer: str, head_dim: int) -> Weights:
    """Query, key and value of a layer, which CachedDecoderStep joins with the scale of the scores in the query."""
    matrix, bias = (weights[f"{_JOINED}{layer}.{part}"] for part in ("weight", "bias"))
    width = matrix.shape[1]
    found: Weights = {}
    for row, name in enumerate(("query", "key", "value")):
        unscaled = np.float32(head_dim**0.5 if name == "query" else 1)
        for part, values in (("weight", matrix), ("bias", bias)):
            found[f"layers.{layer}.{name}.{part}"] = values[row * width : (row + 1) * width] * unscaled
    return found
