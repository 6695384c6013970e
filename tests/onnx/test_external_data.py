"""Weights beside their graph: what a graph may read, and every way to make it read more is refused in one sentence."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from PIL import Image

from im2sp.bundle import Bundle, write_checksums
from im2sp.captioner import Captioner
from im2sp.cli import app
from im2sp.errors import BundleError
from im2sp.onnx import Graphs
from im2sp.onnx.external_data import check_external_data, data_file
from tests.tiny_bundle import write_tiny_bundle

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)


def move_weights_out(graph: Path) -> onnx.ModelProto:
    """Put the weights of a graph beside it, as the export does with large ones."""
    model, content = onnx.load(str(graph)), b""
    for item in model.graph.initializer:
        if item.data_type != TensorProto.FLOAT:
            continue  # shapes must be known before weights are read
        data = numpy_helper.to_array(item).tobytes()
        set_external_data(item, data_file(graph).name, len(content), len(data))
        content += data
        item.ClearField("raw_data")
    data_file(graph).write_bytes(content)
    onnx.save(model, str(graph))
    return model


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A tiny bundle with the weights of its decoder beside it."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    move_weights_out(folder / "decoder.onnx")
    write_checksums(folder)
    return folder


def test_a_bundle_with_weights_beside_a_graph_says_the_same(bundle: Path, tiny_bundle: Path) -> None:
    inside, beside = (Captioner.from_pretrained(folder, threads=1) for folder in (tiny_bundle, bundle))
    assert (bundle / "decoder.onnx").stat().st_size < (tiny_bundle / "decoder.onnx").stat().st_size
    np.testing.assert_array_equal(beside.caption(PHOTO).waveform, inside.caption(PHOTO).waveform)
    assert "decoder.onnx.data" in beside.bundle.checksums


def test_changed_missing_or_unlisted_weights_are_refused(bundle: Path) -> None:
    beside = bundle / "decoder.onnx.data"
    whole = beside.read_bytes()
    beside.write_bytes(whole[:-1] + b"x")
    with pytest.raises(BundleError, match=r"decoder\.onnx\.data of the bundle .* has changed"):
        Bundle.load(bundle)
    beside.write_bytes(whole)
    sums = bundle / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(keepends=True) if ".data" not in line))
    with pytest.raises(BundleError, match=r"decoder\.onnx\.data is not in SHA256SUMS"):
        Bundle.load(bundle)
    beside.unlink()
    with pytest.raises(BundleError, match="which no checksum covers: do not trust it"):
        Graphs(Bundle.load(bundle), threads=1).open("decoder")


def changed(bundle: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """Write the decoder anew with a change, with checksums that agree: those of an attacker would."""
    model = onnx.load(str(bundle / "decoder.onnx"), load_external_data=False)
    change(model)
    (bundle / "decoder.onnx").write_bytes(model.SerializeToString())
    write_checksums(bundle)


def refused(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Graphs(Bundle.load(bundle), threads=1).open("decoder")
    words = str(caught.value)
    assert "\n" not in words
    assert ". " not in words
    return words


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "decoder.onnx", "./decoder.onnx.data", "a\nb"])
def test_a_graph_that_reads_another_file_is_refused(bundle: Path, location: str) -> None:
    (bundle.parent / "secret").write_bytes(bytes(10_000))

    def change(model: onnx.ModelProto) -> None:
        set_external_data_of(first_outside(model), location=location)

    changed(bundle, change)
    assert f"reads weights from {location!r}, not from decoder.onnx.data: do not trust it" in refused(bundle)


def first_outside(model: onnx.ModelProto) -> TensorProto:
    return next(item for item in model.graph.initializer if item.external_data)


def set_external_data_of(tensor: TensorProto, **changes: str) -> None:
    """Change what a tensor says about where it is."""
    kept = {entry.key: entry.value for entry in tensor.external_data} | changes
    del tensor.external_data[:]
    for key, value in kept.items():
        tensor.external_data.add(key=key, value=value)


def elsewhere() -> TensorProto:
    """A tensor in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, dtype=np.float32), "hidden")
    set_external_data(tensor, "/etc/passwd", 0, 16)
    tensor.ClearField("raw_data")
    return tensor


def hidden_in_a_branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [elsewhere()])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))


def hidden_in_a_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["hidden"], value=elsewhere())
    model.functions.append(helper.make_function("mine", "f", [], ["hidden"], [node], []))


def hidden_in_a_sparse_tensor(model: onnx.ModelProto) -> None:
    indices = numpy_helper.from_array(np.arange(4), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(elsewhere(), indices, [10]))


def hidden_in_a_list(model: onnx.ModelProto) -> None:
    node = helper.make_node("Anything", [], ["hidden"], domain="mine")
    node.attribute.append(helper.make_attribute("tensors", [elsewhere()]))
    model.graph.node.append(node)


@pytest.mark.parametrize(
    "hide",
    [
        hidden_in_a_branch,
        hidden_in_a_function,
        hidden_in_a_sparse_tensor,
        hidden_in_a_list,
    ],
)
def test_no_place_in_a_graph_hides_another_file(bundle: Path, hide: Callable[[onnx.ModelProto], None]) -> None:
    changed(bundle, hide)
    assert "reads weights from '/etc/passwd'" in refused(bundle)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"length": "99999999999"}, "reads more weights than decoder.onnx.data holds"),
        ({"offset": "99999999999"}, "reads more weights than decoder.onnx.data holds"),
        ({"length": "9" * 5000}, "a weight of unknown length"),
        ({"offset": "\u0663"}, "a weight of unknown length"),
    ],
)
def test_weights_that_the_file_does_not_have_are_refused(bundle: Path, changes: dict[str, str], why: str) -> None:
    changed(bundle, lambda model: set_external_data_of(first_outside(model), **changes))
    assert why in refused(bundle)


def test_reading_the_same_weights_many_times_is_refused(bundle: Path) -> None:
    """A file of a megabyte must not become a terabyte of memory."""

    def change(model: onnx.ModelProto) -> None:
        largest = max(model.graph.initializer, key=lambda item: int(np.prod(item.dims)))
        for number in range(1000):
            copy = TensorProto()
            copy.CopyFrom(largest)
            copy.name = f"copy{number}"
            model.graph.initializer.append(copy)

    changed(bundle, change)
    assert "reads more weights than decoder.onnx.data holds" in refused(bundle)


def test_graphs_within_graphs_end(tmp_path: Path) -> None:
    graph = helper.make_graph([], "innermost", [], [], [elsewhere()])
    for _ in range(25):
        graph = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=graph)], "outer", [], [])
    (tmp_path / "deep.onnx").write_bytes(onnx.ModelProto(graph=graph).SerializeToString())
    with pytest.raises(BundleError, match="graphs within graphs without end"):
        check_external_data(tmp_path / "deep.onnx", listed=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_damage_never_gets_past_to_another_file(tmp_path: Path, places: list[tuple[int, int]], cut: bool) -> None:
    """Whatever bytes change: one sentence, or a graph that reads nothing but its own weights."""
    graph = tmp_path / "decoder.onnx"
    if not (tmp_path / "whole").is_file():
        write_tiny_bundle(tmp_path)
        move_weights_out(graph)
        os.replace(graph, tmp_path / "whole")
    data = bytearray((tmp_path / "whole").read_bytes())
    for place, byte in places:
        data[place % len(data)] = byte
    graph.write_bytes(data[: places[0][0] % len(data)] if cut else data)
    try:
        check_external_data(graph, listed=True)
        model = onnx.load(str(graph), load_external_data=False)
    except (BundleError, DecodeError):  # what protobuf refuses, onnxruntime does, too
        return
    named = {entry.value for item in model.graph.initializer for entry in item.external_data if entry.key == "location"}
    assert named <= {"decoder.onnx.data"}


def test_a_graph_of_empty_nodes_is_walked_for_seconds_only(tmp_path: Path) -> None:
    """Linear and bounded: five million of them took 40 s."""
    nodes = b"\x0a\x00" * 5_000_000
    size = len(nodes)
    length = bytes((size >> shift & 127) | (128 if size >> shift + 7 else 0) for shift in range(0, 28, 7))
    (tmp_path / "nodes.onnx").write_bytes(b"\x3a" + length + nodes + b"\x12\x08location")
    started = time.process_time()
    with pytest.raises(BundleError, match="more than 500,000 parts"):
        check_external_data(tmp_path / "nodes.onnx", listed=True)
    assert time.process_time() - started < 10


@pytest.mark.parametrize("word", [b"frames", b"Gather"])
def test_names_that_are_no_utf8_are_one_sentence_and_onnxruntime_prints_nothing(
    tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], word: bytes
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    graph = folder / "vocoder.onnx"
    assert word in graph.read_bytes()
    graph.write_bytes(graph.read_bytes().replace(word, b"\xff\xfe" + word[2:]))
    write_checksums(folder)
    with pytest.raises(BundleError, match="cannot be opened"):
        Graphs(Bundle.load(folder), threads=1).open("vocoder")
    assert capfd.readouterr() == ("", "")


def test_faults_of_external_data_end_a_run_at_the_first_photo(bundle: Path, tmp_path: Path) -> None:
    changed(bundle, lambda model: set_external_data_of(first_outside(model), location="elsewhere"))
    photos = [tmp_path / f"{number}.png" for number in range(3)]
    for photo in photos:
        Image.fromarray(PHOTO).save(photo)
    words = ["caption", *map(str, photos), "-o", str(tmp_path / "out"), "--model", str(bundle)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("elsewhere") == 1
