"""A finished bundle -> the translator in its graphs, so that training can go on from it.

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
from torch import Tensor

from im2sp.bundle import Bundle
from im2sp.errors import Im2SpError
from im2sp.lab.models.translator import Translator, TranslatorConfig

Weights = dict[str, npt.NDArray[np.float32]]
_OF_TRANSLATOR, _JOINED = "translator.", "projections."


def read_translator(bundle: Bundle) -> Translator:
    """The translator of a bundle that sees photos by image features, in evaluation mode.

    Raises:
        Im2SpError: the bundle sees image units, or its matrices are stored for products in int8.
    """
    if bundle.config.image_units is not None:
        raise Im2SpError(f"the bundle {bundle.folder} sees image units: its translator cannot be read back")
    sizes = bundle.config.decoder
    seeing, speaking = (_Graph(bundle.folder / f"{name}.onnx", sizes.head_dim) for name in ("image_encoder", "decoder"))
    try:
        state = seeing.weights() | speaking.weights()
        eps, image_eps = speaking.norm_eps("embedding_norm.weight"), seeing.norm_eps("image_norm.weight")
        config = TranslatorConfig(
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
        model = Translator(config)
        model.load_state_dict({name: _tensor(state[name]) for name in model.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise Im2SpError(
            f"the translator of {bundle.folder} cannot be read back ({error}): give a trained bundle whose matrices "
            "are not stored for products in int8"
        ) from error
    return model.eval()


def _tensor(values: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(values.copy())


class _Graph:
    """The weights of a graph as `im2sp.lab.export` wrote it."""

    def __init__(self, path: Path, head_dim: int) -> None:
        self._graph, self._head_dim = onnx.load(str(path)).graph, head_dim
        stored = {item.name: numpy_helper.to_array(item) for item in self._graph.initializer}
        self._values: Weights = {}
        for name, values in stored.items():
            if name.endswith(".int8") and (scale := stored.get(f"{name.removesuffix('.int8')}.scale")) is not None:
                self._values[name.removesuffix(".int8")] = values.astype(np.float32) * scale
            else:
                self._values[name.removesuffix(".fp16")] = values.astype(np.float32)

    def weights(self) -> Weights:
        """By their names in a Translator; matrices [out, in]."""
        found = {
            name.removeprefix(_OF_TRANSLATOR): values
            for name, values in self._values.items()
            if name.startswith(_OF_TRANSLATOR)
        }
        joined: Weights = {}
        for bias, matrix in self._products():
            target = found if bias.startswith(_OF_TRANSLATOR) else joined
            name = bias.removeprefix(_OF_TRANSLATOR).removesuffix("bias") + "weight"
            if name in target and not np.array_equal(target[name], matrix):
                raise KeyError(f"{bias} of two matrices")  # the export joins biases that are equal, untrained ones, say
            target[name] = matrix
        for name, matrix in joined.items():
            if name.startswith(_JOINED):
                found |= self._apart(name.split(".")[1], matrix)
        return found

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

    def _apart(self, layer: str, matrix: npt.NDArray[np.float32]) -> Weights:
        """Query, key and value of a layer, which KeptCacheStep joins with the scale of the scores in the query."""
        width, bias = matrix.shape[1], self._values[f"{_JOINED}{layer}.bias"]
        found: Weights = {}
        for row, name in enumerate(("query", "key", "value")):
            unscaled = np.float32(self._head_dim**0.5 if name == "query" else 1)
            for part, values in (("weight", matrix), ("bias", bias)):
                found[f"layers.{layer}.{name}.{part}"] = values[row * width : (row + 1) * width] * unscaled
        return found
