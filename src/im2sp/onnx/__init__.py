"""ONNX graphs of a bundle: sessions that are checked against its config."""

from __future__ import annotations

from im2sp.onnx.sessions import Graph, Graphs
from im2sp.onnx.signatures import Signature, Tensor, signatures

__all__ = ["Graph", "GraphError", "Graphs", "Signature", "Tensor", "signatures"]
