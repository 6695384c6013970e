"""An exported graph -> the module that it was traced from, so that training goes on from a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from im2sp.errors import Im2SpError


def load_graph_weights(module: nn.Module, graph: Path) -> None:
    """Load the weights of a graph that `export_graph` wrote into a module of the same class and sizes.

    The tracer keeps the names of all parameters but the matrices of linear layers, which it turns over and numbers in
    the order of their use: that of the module's parameters.

    Raises Im2SpError when a weight is not there, or has another shape.
    """
    model = onnx.load(str(graph))
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    weights = {
        name.removesuffix(".int8").removesuffix(".fp16"): values.astype(np.float32)
        * stored.get(name.removesuffix(".int8") + ".scale", 1)
        for name, values in stored.items()
    }
    products = [node.input[1] for node in model.graph.node if node.op_type == "MatMul"]
    matrices = iter([weights[name].T for name in products if name in weights])
    state = {}
    for name, parameter in module.named_parameters():
        values = weights[name] if name in weights else next(matrices, None)
        if values is None or values.shape != tuple(parameter.shape):
            raise Im2SpError(f"{graph} has no {name} of shape {tuple(parameter.shape)}: give the sizes of its model")
        state[name] = torch.from_numpy(np.array(values, np.float32))
    module.load_state_dict(state)
