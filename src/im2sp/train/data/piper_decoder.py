"""The waveform decoder of a Piper voice in torch: hidden frames -> waveform, in bfloat16.

Nine tenths of a Piper voice's time go into its HiFi-GAN decoder. Processors with bfloat16 arithmetic run those
convolutions more than twice as fast through torch as onnxruntime does in float32; the rest of the voice stays in
onnxruntime, cut off at the decoder's input.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.utils
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from im2sp.errors import Im2SpError

LENGTH_STEP = 32  # hidden frames; convolutions are compiled anew for every length, so there should be few of them


Convolution = nn.Conv1d | nn.ConvTranspose1d


class ResidualBlock(nn.Module):
    """HiFi-GAN residual block "2": rounds of leaky ReLU, dilated convolution, plus the input."""

    def __init__(self, convolutions: list[Convolution]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, x: Tensor) -> Tensor:
        """x [1, C, T] -> [1, C, T]."""
        for convolution in self.convolutions:
            x = x + convolution(nn.functional.leaky_relu(x, 0.1))
        return x


class PiperDecoder(nn.Module):
    """HiFi-GAN rebuilt from the weights in a Piper graph: hidden [1, C, T] float32 -> waveform [samples]."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__()
        weights = {item.name: numpy_helper.to_array(item) for item in graph.initializer if item.name.startswith("dec.")}
        nodes = [n for n in graph.node if n.name.startswith("/dec") and n.op_type in ("Conv", "ConvTranspose")]
        layers = {node.input[1].removeprefix("dec.").removesuffix(".weight"): _layer(node, weights) for node in nodes}
        try:
            self.first, self.last = layers["conv_pre"], layers["conv_post"]
            self.ups = nn.ModuleList(layers[f"ups.{i}"] for i in range(sum(name.startswith("ups.") for name in layers)))
        except KeyError as error:
            raise Im2SpError(
                f"this Piper voice has no decoder layer {error}: choose the slower exact decoder"
            ) from error
        names = sorted({int(n.split(".")[1]) for n in layers if n.startswith("resblocks.")})
        blocks = [
            ResidualBlock([layer for name, layer in layers.items() if name.startswith(f"resblocks.{i}.")])
            for i in names
        ]
        self.blocks = nn.ModuleList(blocks)
        self.to(torch.bfloat16).eval().requires_grad_(False)

    @torch.inference_mode()
    def decode(self, hidden: np.ndarray) -> np.ndarray:
        """hidden float32 [1, C, T] -> waveform float32 [samples]."""
        count = hidden.shape[2]
        padded = np.pad(hidden, ((0, 0), (0, 0), (0, -count % LENGTH_STEP)))
        x = self.first(torch.from_numpy(padded).to(torch.bfloat16))
        each = len(self.blocks) // len(self.ups)  # residual blocks after each upsampling
        for stage, up in enumerate(self.ups):
            x = up(nn.functional.leaky_relu(x, 0.1))
            first, *others = list(self.blocks)[stage * each : (stage + 1) * each]
            x = sum((block(x) for block in others), first(x)) * (1 / each)  # no stack and mean: they copy
        x = self.last(nn.functional.leaky_relu(x))
        wave: np.ndarray = x.float().tanh()[0, 0].numpy()
        return wave[: len(wave) * count // padded.shape[2]]


def split_voice(path: Path) -> tuple[bytes, PiperDecoder]:
    """A Piper graph -> (graph up to the decoder, decoder).

    The graph gives the hidden frames and the number of frames of every phone id.
    """
    model = onnx.load(str(path))
    first = next((node for node in model.graph.node if node.name.startswith("/dec/conv_pre")), None)
    if first is None:
        raise Im2SpError(f"{path} has no HiFi-GAN decoder by Piper's names: choose the slower exact decoder")
    counts = next(node.output[0] for node in model.graph.node if node.op_type == "Ceil")
    outputs = [first.input[0], counts]
    model.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs
    )
    extractor = onnx.utils.Extractor(model)
    front = extractor.extract_model([item.name for item in model.graph.input], outputs)
    return front.SerializeToString(), PiperDecoder(model.graph)


def _layer(node: onnx.NodeProto, weights: dict[str, np.ndarray]) -> Convolution:
    attributes: dict[str, Any] = {item.name: list(item.ints) or item.i for item in node.attribute}
    weight = weights[node.input[1]]
    options = {
        "stride": attributes["strides"][0],
        "padding": attributes["pads"][0],
        "dilation": attributes["dilations"][0],
        "bias": len(node.input) > 2,
    }
    layer: Convolution
    if node.op_type == "Conv":
        layer = nn.Conv1d(weight.shape[1], weight.shape[0], weight.shape[2], **options)
    else:
        layer = nn.ConvTranspose1d(weight.shape[0], weight.shape[1], weight.shape[2], **options)
    layer.weight.data = torch.from_numpy(weight.copy())
    if layer.bias is not None:
        layer.bias.data = torch.from_numpy(weights[node.input[2]].copy())
    return layer
