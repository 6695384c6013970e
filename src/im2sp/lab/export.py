"""Lab models -> a bundle: ONNX graphs with compressed weights, config, model card and checksums (docs/bundle.md)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from im2sp.files import replace_whole

OPSET = 18
LARGE_CONVOLUTION = 200_000  # values; as many sit in the last layers, whose rounding little amplifies
SMALL = 1024  # values; smaller tensors (biases, norms) stay in float32
Precision = str  # "fp32"; "fp16"; "int8"; or "mixed": int8 but for delicate weights, which are fp16


def export_graph(
    module: nn.Module,
    inputs: Sequence[Tensor],
    names: tuple[Sequence[str], Sequence[str]],
    dynamic: dict[str, dict[int, str]],
    path: Path,
    precision: Precision,
) -> int:
    """Trace a module, compress its weights and write `path`; returns the number of its parameters.

    Args:
        inputs: example inputs.
        names: (input names, output names).
        dynamic: for each name the dimensions that vary.
        precision: how weights are stored; arithmetic stays float32.
    """
    module = module.eval()
    with replace_whole(path) as temporary, warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer warns about every shape that is read in Python
        torch.onnx.export(
            module,
            tuple(inputs),
            str(temporary),
            input_names=list(names[0]),
            output_names=list(names[1]),
            dynamic_axes=dynamic,
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(str(temporary))
        compress(model, precision, [buffer.numpy() for buffer in module.buffers()])
        onnx.checker.check_model(model)
        onnx.save(model, str(temporary))
    return sum(int(np.prod(item.dims)) for item in _stored(model) if item.data_type in _WEIGHT_TYPES)


def export_sequence(
    module: torch.nn.Module, name: str, source: str, target: str, folder: Path, precision: Precision
) -> int:
    """A graph from one int64 sequence [1, n] to one output; returns its parameters."""
    return export_graph(
        module,
        [torch.zeros(1, 50, dtype=torch.int64)],
        ([source], [target]),
        {source: {1: source}, target: {1: target}},
        folder / f"{name}.onnx",
        precision,
    )


_WEIGHT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8)


def _stored(model: onnx.ModelProto) -> list[TensorProto]:
    return list(model.graph.initializer)


def compress(model: onnx.ModelProto, precision: Precision, given: Sequence[np.ndarray] = ()) -> None:
    """Store large float weights as float16, or as int8 with one scale a channel; the graph widens them again.

    onnxruntime folds the widening when it loads the graph, so only the file shrinks: speed and arithmetic are those
    of float32, and the rounding of the weights is the whole loss.

    Args:
        given: weights that no training has made robust (buffers of the module), such as Fourier bases and k-means
            centres: delicate.
    """
    _fold_constants(model)
    if precision == "fp32":
        return
    kept, nodes = [], []
    for item in model.graph.initializer:
        values = numpy_helper.to_array(item)
        if item.data_type != TensorProto.FLOAT or values.size < SMALL or values.ndim < 2:
            kept.append(item)
            continue
        if precision == "fp16" or (
            precision == "mixed" and (_is_delicate(model, item.name, values) or _is_among(values, given))
        ):
            kept.append(numpy_helper.from_array(values.astype(np.float16), item.name + ".fp16"))
            nodes.append(helper.make_node("Cast", [item.name + ".fp16"], [item.name], to=TensorProto.FLOAT))
            continue
        axis = _channel_axis(model, item.name, values.ndim)
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.maximum(np.abs(values).max(axis=others, keepdims=True) / 127, 1e-12).astype(np.float32)
        kept.append(numpy_helper.from_array(np.round(values / scale).astype(np.int8), item.name + ".int8"))
        kept.append(numpy_helper.from_array(scale, item.name + ".scale"))
        nodes.append(helper.make_node("Cast", [item.name + ".int8"], [item.name + ".wide"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [item.name + ".wide", item.name + ".scale"], [item.name]))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    every = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(every)


def _fold_constants(model: onnx.ModelProto) -> None:
    """Turn large Constant nodes into initializers, so that they are compressed, too."""
    rest = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            if int(np.prod(tensor.dims)) >= SMALL:
                tensor.name = node.output[0]
                model.graph.initializer.append(tensor)
                continue
        rest.append(node)
    del model.graph.node[:]
    model.graph.node.extend(rest)


def _is_delicate(model: onnx.ModelProto, name: str, values: np.ndarray) -> bool:
    """Weights that lose too much as int8: two-dimensional convolutions but for the large late ones.

    With all of EfficientNet-Lite2 in int8 its features are off by 9 %, in float16 by 0.2 %, like this by 3 %.
    """
    users = {node.op_type for node in model.graph.node if name in node.input}
    return "Conv" in users and values.ndim == 4 and values.size < LARGE_CONVOLUTION


def _is_among(values: np.ndarray, given: Sequence[np.ndarray]) -> bool:
    """Whether it is one of the arrays, or one turned over or flattened: the exporter does that to them."""
    return any(
        np.array_equal(values, other)
        or np.array_equal(values, other.T)
        or (values.size == other.size and np.array_equal(values.ravel(), other.ravel()))
        for other in given
    )


def _channel_axis(model: onnx.ModelProto, name: str, dimensions: int) -> int:
    """Axis of the output channels: the last of a matrix multiplied from the right, the first of all else."""
    for node in model.graph.node:
        if name in node.input:
            if node.op_type == "MatMul" and node.input[1] == name:
                return dimensions - 1
            if node.op_type == "Gemm":
                transposed = any(a.name == "transB" and a.i == 1 for a in node.attribute)
                return 0 if transposed else 1
    return 0
