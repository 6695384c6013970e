"""Torch modules -> ONNX graphs with compressed weights."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from im2sp.files import atomic_write
from im2sp.onnx.external_data import data_file

OPSET = 18
CONTRIBUTED = "com.microsoft"  # onnxruntime's own operators, with MatMulNBits among them
BLOCK = 128  # rows of a matrix that share a scale in each column; smaller blocks are slower and not much closer
LARGE_GRAPH = 64 * 2**20  # bytes; more than that in weights goes to a file of its own, as graphs end at 2 GB
PAGE = 4096  # bytes; weights outside of their graph begin at whole pages, so that they are mapped and not copied
LARGE_CONVOLUTION = 50_000  # values; as many sit in the later layers, whose rounding little amplifies
SMALL = 1024  # values; smaller tensors (biases, norms) stay in float32
# "fp32"; "fp16"; "int8", which multiplies matrices in int8; or "mixed", which stores as int8 and multiplies in float32,
# with delicate weights as fp16.
Precision = str


def export_graph(
    module: nn.Module,
    inputs: Sequence[Tensor],
    names: tuple[Sequence[str], Sequence[str]],
    dynamic: dict[str, dict[int, str]],
    path: Path,
    precision: Precision,
) -> int:
    """Trace a module, compress its weights and write `path`; returns the number of its parameters.

    Weights of more than LARGE_GRAPH bytes go to `<path>.data`.

    Args:
        inputs: example inputs.
        names: (input names, output names).
        dynamic: for each name the dimensions that vary.
        precision: how weights are stored; arithmetic stays float32, but for matrix products where it is "int8".
    """
    module = module.eval()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer warns about every shape that is read in Python
        traced = Path(folder) / "traced.onnx"  # in a folder, as beyond 2 GB every weight becomes a file beside it
        torch.onnx.export(
            module,
            tuple(inputs),
            str(traced),
            input_names=list(names[0]),
            output_names=list(names[1]),
            dynamic_axes=dynamic,
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(str(traced))
    compress(model, precision, [buffer.numpy() for buffer in module.buffers()])
    parameters = sum(int(np.prod(item.dims)) for item in _stored(model) if item.data_type in _WEIGHT_TYPES)
    _save(model, path)
    onnx.checker.check_model(str(path))
    return parameters


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph, and its weights beside it where they are many."""
    weights = [item for item in _stored(model) if len(item.raw_data) >= SMALL]
    beside = data_file(path)
    if sum(len(item.raw_data) for item in weights) <= LARGE_GRAPH:
        beside.unlink(missing_ok=True)
    else:
        with atomic_write(beside) as temporary, temporary.open("wb") as file:
            for item in weights:
                file.write(bytes(-file.tell() % PAGE))
                set_external_data(item, beside.name, file.tell(), len(item.raw_data))
                file.write(item.raw_data)
                item.ClearField("raw_data")
    with atomic_write(path) as temporary:
        onnx.save(model, str(temporary))


_WEIGHT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8)


def _stored(model: onnx.ModelProto) -> list[TensorProto]:
    return list(model.graph.initializer)


def compress(model: onnx.ModelProto, precision: Precision, given: Sequence[np.ndarray] = ()) -> None:
    """Store large float weights as float16, or as int8 with one scale a channel; the graph widens them again.

    onnxruntime folds the widening when it loads the graph, so only the file shrinks: speed and arithmetic are those
    of float32, and the rounding of the weights is the whole loss. With "int8", products with matrices that nothing
    else uses are taken in int8 instead (`_multiply_in_int8`).

    Args:
        given: weights that no training has made robust (buffers of the module), such as Fourier bases and k-means
            centres: delicate.
    """
    _fold_constants(model)
    if precision == "fp32":
        return
    if precision == "int8":
        _multiply_in_int8(model)
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
        others = _rounded_together(model, item.name, values.ndim)
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


def _multiply_in_int8(model: onnx.ModelProto) -> None:
    """Replace products with large matrices by MatMulNBits of 8 bits.

    Each column of a matrix has a scale for every BLOCK rows; what it is multiplied with is rounded row by row and
    block by block, too, so no row of a batch depends on the others.
    """
    weights = {item.name: item for item in model.graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    replaced: dict[str, list[TensorProto]] = {}
    for name, item in weights.items():
        large = item.data_type == TensorProto.FLOAT and len(item.dims) == 2 and int(np.prod(item.dims)) >= SMALL
        if large and users.get(name) and all(_is_product(node, name) for node in users[name]):
            transposed = users[name][0].op_type == "Gemm" and _attribute(users[name][0], "transB") == 1
            matrix = numpy_helper.to_array(item)
            replaced[name] = _in_blocks(matrix.T if transposed else matrix, name)
    if not replaced:
        return
    kept = [item for item in model.graph.initializer if item.name not in replaced]
    kept += [part for parts in replaced.values() for part in parts]
    nodes = [new for node in model.graph.node for new in _product_nodes(node, weights, replaced)]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))


def _is_product(node: onnx.NodeProto, name: str) -> bool:
    """Whether a node does nothing with a matrix but multiply rows by it."""
    if list(node.input).count(name) != 1 or node.input[1:2] != [name]:
        return False
    plain = _attribute(node, "alpha", 1.0) == _attribute(node, "beta", 1.0) == 1 and not _attribute(node, "transA")
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and bool(plain))


def _attribute(node: onnx.NodeProto, name: str, default: float = 0) -> float:
    """A number that a node has as an attribute."""
    values = [helper.get_attribute_value(item) for item in node.attribute if item.name == name]
    return float(values[0]) if values else default


def _in_blocks(matrix: np.ndarray, name: str) -> list[TensorProto]:
    """A matrix float32 [K, N] -> uint8 [N, blocks, BLOCK], where 128 is zero, and scales float32 [N, blocks]."""
    rows, columns = matrix.shape
    blocks = np.zeros((columns, -(-rows // BLOCK) * BLOCK), dtype=np.float32)
    blocks[:, :rows] = matrix.T
    blocks = blocks.reshape(columns, -1, BLOCK)
    scales = np.maximum(np.abs(blocks).max(axis=-1) / 127, 1e-12)
    rounded = (np.round(blocks / scales[..., None]) + 128).astype(np.uint8)
    return [numpy_helper.from_array(rounded, f"{name}.int8"), numpy_helper.from_array(scales, f"{name}.scales")]


def _product_nodes(
    node: onnx.NodeProto, weights: dict[str, TensorProto], replaced: dict[str, list[TensorProto]]
) -> Iterator[onnx.NodeProto]:
    """A node as it is, or what stands for it where its matrix was replaced."""
    if len(node.input) < 2 or node.input[1] not in replaced:
        yield node
        return
    rounded, scales = replaced[node.input[1]]
    rows, columns = weights[node.input[1]].dims
    if node.op_type == "Gemm" and _attribute(node, "transB") == 1:
        rows, columns = columns, rows
    has_bias = len(node.input) == 3
    product = f"{node.output[0]}.product" if has_bias else node.output[0]
    yield helper.make_node(
        "MatMulNBits",
        [node.input[0], rounded.name, scales.name],
        [product],
        domain=CONTRIBUTED,
        K=rows,
        N=columns,
        bits=8,
        block_size=BLOCK,
        accuracy_level=4,  # in int8; without it, weights would be widened at every step
    )
    if has_bias:
        yield helper.make_node("Add", [product, node.input[2]], [node.output[0]])


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

    With all of EfficientNet-Lite2 in int8 its features are off by 9 %, in float16 by 0.2 %. Like this, image
    units keep 98 % of their most probable classes and 96 % of the first codes of their cells (48 photos).
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


def _rounded_together(model: onnx.ModelProto, name: str, dimensions: int) -> tuple[int, ...]:
    """Axes along which values share a scale: all but that of the output channels; the last of tables of rows."""
    for node in model.graph.node:
        if name in node.input:
            if node.op_type == "MatMul" and node.input[1] == name:
                return tuple(range(dimensions - 1))
            if node.op_type == "Gemm":
                transposed = any(a.name == "transB" and a.i == 1 for a in node.attribute)
                return (1,) if transposed else (0,)
            if node.op_type in ("Conv", "ConvTranspose"):
                return tuple(range(1, dimensions))
    return (dimensions - 1,)
