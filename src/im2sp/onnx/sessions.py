"""ONNX sessions of a bundle: opened when first needed, checked against the config, run with named arrays."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from im2sp.bundle import Bundle
from im2sp.errors import BundleError, GraphError, Im2SpError, reason
from im2sp.onnx.cache import WEIGHTS, GraphCache
from im2sp.onnx.external_data import check_external_data, data_file, graph_bytes
from im2sp.onnx.signatures import Signature, signatures

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import onnxruntime

MAX_THREADS = 4  # more do not make graphs of this size faster
_EXTERNAL_WEIGHTS = {  # of a cached graph: in a file of their own they are mapped, not copied
    "session.optimized_model_external_initializers_file_name": WEIGHTS,
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}
# Run many times for little each: waking a second thread for one of their products takes longer than the product.
_SHORT_RUNS = ("decoder", "duration_predictor")
_LARGE = 2**24  # bytes of a graph whose products are worth it all the same
_ORT_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


class Graph:
    """An open graph."""

    def __init__(self, label: str, signature: Signature, session: onnxruntime.InferenceSession) -> None:
        self.label = label  # for messages: file and bundle
        self._outputs = signature.outputs
        self._session = session

    def run(self, **inputs: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        """Run on named arrays; return the outputs in the order of the signature.

        Raises BundleError when it fails, or gives other shapes than it declares.
        """
        try:
            found = list(self._session.run(list(self._outputs), inputs))
        except Exception as error:  # onnxruntime raises classes of its own without a common public base
            raise BundleError(f"{self.label} failed: {_why(error)}") from error
        for (name, tensor), array in zip(self._outputs.items(), found, strict=True):
            if not _fits(list(array.shape), tensor.dims, free=False):
                shapes = f"{name} {list(array.shape)} where config.json asks for {_show(tensor.dims)}"
                raise BundleError(f"{self.label} gave {shapes}: export it again")
        return found


class Graphs:
    """The graphs of a bundle, each opened when it is first needed. Safe to share between threads."""

    def __init__(self, bundle: Bundle, threads: int = 0, cache: GraphCache | None = None) -> None:
        """`threads`: CPU threads per graph; 0 takes the cores that this process may use, at most MAX_THREADS.

        `cache`: of optimised graphs, which open faster.
        """
        if threads < 0:
            raise Im2SpError(f"{threads} threads cannot run anything: give 0 for all cores, or a number of threads")
        self.bundle = bundle
        self._cache = cache
        self._threads = threads or min(_available_cores(), MAX_THREADS)
        self._signatures = signatures(bundle.config)
        self._open: dict[str, Graph] = {}
        self._lock = threading.Lock()

    def open(self, name: str) -> Graph:
        """Open the graph of that name, once. Raises BundleError when the bundle has none, GraphError when it cannot be
        opened or does not match the config.
        """
        if name not in self._signatures:
            raise BundleError(f"the bundle {self.bundle.folder} has no {name}.onnx: use a bundle that has one")
        if name in self._open:
            return self._open[name]
        with self._lock:
            if name not in self._open:
                label = f"{name}.onnx of the bundle {self.bundle.folder}"
                signature = self._signatures[name]
                self._open[name] = Graph(label, signature, self._session(name, label))
            return self._open[name]

    def check(self, names: Iterable[str] = ()) -> None:
        """Open the graphs of these names, or all. Raises GraphError for the first that does not match the config."""
        for name in names or self._signatures:
            self.open(name)

    def _session(self, name: str, label: str) -> onnxruntime.InferenceSession:
        path = self.bundle.folder / f"{name}.onnx"
        try:
            check_external_data(path, listed=data_file(path).name in self.bundle.checksums)
            threads = 1 if name in _SHORT_RUNS and graph_bytes(path) < _LARGE else self._threads
            cached = self._cached(name, path, threads) if GraphCache.accepts(path) else None
            session = cached or _open(path, _options(threads))
            _check(label, self._signatures[name], session)
            return session
        except BundleError as error:
            raise GraphError(str(error)) from error
        except Exception as error:  # see Graph.run
            raise GraphError(f"{label} cannot be opened: {_why(error)}") from error

    def _cached(self, name: str, path: Path, threads: int) -> onnxruntime.InferenceSession | None:
        """Open a graph from the cache, or store it there; None without a cache that works."""
        if self._cache is None:
            return None
        if found := self._cache.find(self.bundle, name):
            try:
                return _open(found, _options(threads, optimise=False))
            except Exception:  # of another kind of onnxruntime than it says
                self._cache.drop(self.bundle, name)
        try:
            with self._cache.storing(self.bundle, name) as target:
                options = _options(threads)
                options.optimized_model_filepath = str(target)
                for key, value in _EXTERNAL_WEIGHTS.items():
                    options.add_session_config_entry(key, value)
                return _open(path, options)
        except Exception:  # a full disk, say; a graph that cannot be opened at all fails once more without the cache
            return None


def _options(threads: int, *, optimise: bool = True) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, too; warnings mean nothing to the one who captions
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Memory goes back after each run; the arena would keep the largest sentence's buffers for every graph,
    # and its patterns only help where every run has the same shapes.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    # Five graphs take turns: waiting threads of one must not burn the cores that the next one needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _open(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    import onnxruntime

    if os.environ.get("ORT_DISABLE_TELEMETRY") == "1":
        # Windows does not know the variable (see im2sp/__init__.py), nor one who imported onnxruntime before im2sp.
        onnxruntime.disable_telemetry_events()
    # Its fall-back to other providers prints on stdout and tries the same again.
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)


def _check(label: str, signature: Signature, session: onnxruntime.InferenceSession) -> None:
    for kind, wanted, nodes in (
        ("input", signature.inputs, session.get_inputs()),
        ("output", signature.outputs, session.get_outputs()),
    ):
        found = {node.name: node for node in nodes}
        if set(found) != set(wanted):
            names = f"{kind}s {', '.join(sorted(found))}"
            raise GraphError(f"{label} has the {names} where im2sp needs {', '.join(sorted(wanted))}: export it again")
        for name, tensor in wanted.items():
            node = found[name]
            if node.type != _ORT_TYPES[tensor.dtype] or not _fits(node.shape, tensor.dims, free=kind == "input"):
                wish = f"{tensor.dtype} {_show(tensor.dims)}"
                what = f"{kind} {name} as {node.type} {_show(node.shape)}"
                raise GraphError(f"{label} has the {what} where config.json asks for {wish}: export it again")


def _fits(shape: list[int | str | None], dims: tuple[int | str, ...], free: bool) -> bool:
    """A fixed dimension must agree; a free one must be free in an input, since runs differ there (`free`)."""
    if len(shape) != len(dims):
        return False
    for found, wanted in zip(shape, dims, strict=True):
        if isinstance(found, int) and found != wanted and (free or isinstance(wanted, int)):
            return False
    return True


def _show(dims: list[int | str | None] | tuple[int | str, ...]) -> str:
    return f"[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"


def _why(error: Exception) -> str:
    """The reason without onnxruntime's own codes before it."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", reason(error))


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
