"""Bundle: load, verify, describe; every kind of damage is one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from im2sp.bundle import FORMAT_VERSION, Bundle, find_bundle, write_checksums, write_config
from im2sp.errors import BundleError
from im2sp.files import CHECKSUMS_LIMIT
from im2sp.onnx import Graphs
from tests.tiny_bundle import tiny_confidence, tiny_config, write_tiny_bundle


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def sentence(call: Callable[[], object]) -> str:
    """The one sentence that `call` fails with."""
    with pytest.raises(BundleError) as caught:
        call()
    words = str(caught.value)
    assert words
    assert "\n" not in words
    assert ". " not in words
    assert not words.endswith(".")
    return words


def change_config(folder: Path, **changes: object) -> None:
    """Change parts of config.json ("image.height" is written image__height) and make the checksums agree."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(json.dumps(config))
    write_checksums(folder)


def test_load_and_describe(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    assert bundle.config == tiny_config()
    assert set(bundle.checksums) == {"config.json", *(f"{graph}.onnx" for graph in bundle.config.graphs)}
    Graphs(bundle, threads=1).check()


def test_checksums_are_those_of_sha256sum(tiny_bundle: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tiny_bundle, check=True, capture_output=True)


def test_no_folder(tmp_path: Path) -> None:
    assert "no bundle folder" in sentence(lambda: Bundle.load(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    assert "no bundle folder" in sentence(lambda: Bundle.load(tmp_path / "file"))


@pytest.mark.parametrize("name", ["decoder.onnx", "SHA256SUMS"])
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert f"{name} is missing" in sentence(lambda: Bundle.load(bundle))


@pytest.mark.parametrize("name", ["decoder.onnx", "config.json"])
def test_a_changed_byte(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    assert f"{name} of the bundle {bundle} has changed" in sentence(lambda: Bundle.load(bundle))


@pytest.mark.parametrize("name", ["config.json", "vocoder.onnx"])
def test_a_file_that_the_checksums_do_not_cover(bundle: Path, name: str) -> None:
    sums = bundle / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(keepends=True) if name not in line))
    assert f"{name} is not in SHA256SUMS" in sentence(lambda: Bundle.load(bundle))


@pytest.mark.parametrize("path", ["/etc/passwd", "a/../../x", "..", "C:\\secret", "C:secret", "a\x07b"])
def test_a_path_that_leaves_the_folder(bundle: Path, path: str) -> None:
    (bundle.parent / "secret").write_text("secret")
    with (bundle / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {path}\n")
    assert "does not stay inside it" in sentence(lambda: Bundle.load(bundle))


@pytest.mark.parametrize("line", ["nonsense", f"{'0' * 64}  config.json", "\udcff", "0" * (CHECKSUMS_LIMIT + 1)])
def test_a_list_of_checksums_that_is_none(bundle: Path, line: str) -> None:
    with (bundle / "SHA256SUMS").open("a", errors="surrogateescape") as file:
        file.write(f"{line}\n")
    assert "SHA256SUMS" in sentence(lambda: Bundle.load(bundle))


@pytest.mark.parametrize(
    ("version", "advice"), [(FORMAT_VERSION + 1, "upgrade im2sp"), (FORMAT_VERSION - 1, "export the bundle again")]
)
@pytest.mark.parametrize("other", [{}, {"something_new": [1, 2]}])
def test_another_version(bundle: Path, version: int, advice: str, other: dict[str, object]) -> None:
    change_config(bundle, format_version=version, **other)
    words = sentence(lambda: Bundle.load(bundle))
    assert f"format version {version}" in words
    assert advice in words


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def lists(folder: Path, *names: str) -> None:
    """SHA256SUMS lists more files."""
    with (folder / "SHA256SUMS").open("a") as file:
        file.writelines(f"{'0' * 64}  {name}\n" for name in names)


@pytest.mark.parametrize("name", ["SHA256SUMS", "config.json", "decoder.onnx"])
@pytest.mark.parametrize("device", ["/dev/zero", "a FIFO"])
def test_what_is_no_regular_file_is_not_read(bundle: Path, name: str, device: str) -> None:
    (bundle / name).unlink()
    if device == "a FIFO":
        os.mkfifo(bundle / name)
    else:
        (bundle / name).symlink_to(device)
    words = sentence(lambda: Bundle.load(bundle))
    assert name in words
    assert "not a regular file" in words


def test_huge_files_are_not_read(bundle: Path) -> None:
    sparse(bundle / "README.md", 16 * 2**30)
    Bundle.load(bundle)  # no checksum covers it
    lists(bundle, "README.md")
    sparse(bundle / "README.md", 2**24 + 1)
    assert "README.md of the bundle" in sentence(lambda: Bundle.load(bundle))
    sparse(bundle / "README.md", 16 * 2**30)
    assert "where im2sp reads 16 at most" in sentence(lambda: Bundle.load(bundle))


def test_odd_names_are_one_sentence(bundle: Path) -> None:
    lists(bundle, "x" * 300)
    assert "the name is too long" in sentence(lambda: Bundle.load(bundle))
    write_checksums(bundle)
    lists(bundle, "./vocoder.onnx")
    assert "do not trust it" in sentence(lambda: Bundle.load(bundle))
    write_checksums(bundle)
    Path(os.fsdecode(os.fsencode(bundle) + b"/\xff.onnx")).touch()
    assert sentence(lambda: Bundle.load(bundle)).encode()


def test_info_says_who_made_it(bundle: Path) -> None:
    assert Bundle.load(find_bundle("default")).made_by.startswith("the im2sp project")
    assert Bundle.load(bundle).made_by.startswith("unknown")
    cached = bundle.parent / "hub" / "models--zoe--voices" / "snapshots"
    cached.mkdir(parents=True)
    bundle.rename(cached / "0123abcd")
    assert Bundle.load(cached / "0123abcd").made_by == "zoe on the hub, as zoe/voices"


NOT_JSON = {
    "empty": b"",
    "deep": b"[" * 100_000,
    "deep, newer": b'{"format_version": 4, "x": ' + b"[" * 100_000,
    "not a number": b'{"image": {"mean": [0, 0, NaN]}}',
    "not UTF-8": b'{"name": "\xff"}',
    "huge": b'{"a": ' + b"9" * 5_000 + b"}",
}


@pytest.mark.parametrize("text", NOT_JSON.values(), ids=NOT_JSON)
def test_a_config_that_is_not_json(bundle: Path, text: bytes) -> None:
    (bundle / "config.json").write_bytes(text)
    write_checksums(bundle)
    assert "config.json is not" in sentence(lambda: Bundle.load(bundle))


def test_a_config_that_would_be_refused_is_not_written(bundle: Path) -> None:
    before = (bundle / "config.json").read_bytes()
    for wrong in (replace(tiny_config(), name=3), replace(tiny_config(), training={"score": float("nan")})):
        assert "values would be refused" in sentence(lambda wrong=wrong: write_config(bundle, wrong))
    assert (bundle / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"surprise": 1}, "(object contains unknown field `surprise`)"),
        ({"name": 3}, "name: expected `str`, got `int`"),
        ({"image__height": 10**9}, "image.height: expected `int` <= 4096"),
        ({"image__std": [1, 1, 0]}, "image.std.2"),
        ({"image__mean": [0, 0, "nan"]}, "image.mean.2"),
        ({"image__grid": [4, 4]}, "more cells than there are image tokens"),
        ({"decoder__vocabulary_size": 300}, "the decoder has 300 tokens but the vocabulary has 27"),
        ({"decoder__max_tokens": 10}, "max_tokens is more than the decoder has positions"),
        ({"vocabulary__subwords": [[20]]}, "a subword is empty or holds a unit outside 0..19"),
        ({"vocabulary__pronunciations": {"first": [], "last": [], "said": [[0, None, 1]]}}, "pronunciations.said.0"),
        ({"vocoder__units": 21}, "same number of units"),
        ({"vocoder__sample_rate": 22_050}, "16000 Hz"),
        ({"decoder__layers": 256, "decoder__head_dim": 1_024, "decoder__heads": 256}, "KV cache of a caption would"),
    ],
)
def test_a_config_that_is_wrong(bundle: Path, changes: dict[str, object], reason: str) -> None:
    change_config(bundle, **changes)
    words = sentence(lambda: Bundle.load(bundle))
    assert "config.json is not a valid config" in words
    assert reason in words


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"confidence__surprise": 1}, "confidence: object contains unknown field `surprise`"),
        ({"confidence__weights": {"luck": 1.0}}, "confidence.weights: invalid enum value 'luck'"),
        ({"confidence__abstain_units": [0, 1, 2, 20]}, "a unit outside 0..19"),
        ({"confidence__hedge_units": [1]}, "belong together"),
        ({"confidence__photo_weights": [1.0]}, "as many weights as there are components"),
        (
            {"confidence__hedge_units": [20], "confidence__hedge_durations": [3], "confidence__hedge_threshold": 0.8},
            "hedge_units holds a unit outside 0..19",
        ),
        (
            {"confidence__hedge_units": [1, 2], "confidence__hedge_durations": [3], "confidence__hedge_threshold": 0.8},
            "hedge_units and hedge_durations must have the same length",
        ),
        (
            {"confidence__hedge_units": [1], "confidence__hedge_durations": [3], "confidence__hedge_threshold": 0.2},
            "hedge_threshold must not be below threshold",
        ),
        ({"confidence__abstain_durations": [1, 1, 1]}, "same length"),
        ({"confidence__pca__mean": [0.0] * 15}, "as many dimensions as the mean"),
        ({"confidence__pca__deviations": [0.5]}, "one deviation for each component"),
        ({"confidence__pca": {"mean": [0.0] * 8, "components": [], "deviations": []}}, "heads x head_dim"),
    ],
)
def test_a_confidence_that_is_wrong(
    calibrated_bundle: Path, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    folder = Path(shutil.copytree(calibrated_bundle, tmp_path / "bundle"))
    assert Bundle.load(folder).config.confidence == tiny_confidence()
    change_config(folder, **changes)
    words = sentence(lambda: Bundle.load(folder))
    assert "config.json is not a valid config" in words
    assert reason in words


@pytest.mark.parametrize(
    ("graph", "changes"),
    [
        ("image_encoder", {"image__height": 64}),
        ("decoder", {"decoder__head_dim": 16}),
        ("decoder", {"image__image_tokens": 16}),
    ],
)
def test_graphs_of_wrong_shape(bundle: Path, graph: str, changes: dict[str, object]) -> None:
    change_config(bundle, **changes)
    graphs = Graphs(Bundle.load(bundle))
    sentence(graphs.check)
    words = sentence(lambda: graphs.open(graph))
    assert words.startswith(f"{graph}.onnx of the bundle")
    assert "where config.json asks for" in words


@pytest.mark.parametrize(("graph", "other"), [("decoder", "vocoder")])
def test_a_graph_in_the_place_of_another(bundle: Path, graph: str, other: str) -> None:
    shutil.copy(bundle / f"{other}.onnx", bundle / f"{graph}.onnx")
    write_checksums(bundle)
    words = sentence(lambda: Graphs(Bundle.load(bundle)).open(graph))
    assert f"{graph}.onnx of the bundle {bundle} has the inputs" in words


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x08\x08\x12\x00" * 100])
def test_a_graph_that_is_none(bundle: Path, data: bytes) -> None:
    (bundle / "vocoder.onnx").write_bytes(data)
    write_checksums(bundle)
    assert "vocoder.onnx" in sentence(lambda: Graphs(Bundle.load(bundle)).open("vocoder"))


def test_threads_go_to_graphs_that_are_run_for_long(tiny_bundle: Path) -> None:
    graphs = Graphs(Bundle.load(tiny_bundle), threads=3)
    names = ("image_encoder", "decoder", "duration_predictor", "vocoder")
    threads = [graphs.open(name)._session.get_session_options().intra_op_num_threads for name in names]
    assert threads == [3, 1, 1, 3]


# ---- image units ----


@pytest.fixture
def with_units(unit_bundle: Path, tmp_path: Path) -> Path:
    """A copy of a bundle with image units that may be damaged."""
    return Path(shutil.copytree(unit_bundle, tmp_path / "units"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_units__grid": [400, 400]}, "65536 are the most"),
        ({"image_units__crop": [4, 2]}, "the crop is larger than the grid"),
        ({"image_units__checksum": "no"}, "image_units.checksum"),
        ({"image_units__pages": 3}, "image_units: object contains unknown field `pages`"),
    ],
)
def test_image_units_that_cannot_be(with_units: Path, changes: dict[str, object], reason: str) -> None:
    change_config(with_units, **changes)
    words = sentence(lambda: Bundle.load(with_units))
    assert "config.json is not a valid config" in words
    assert reason in words


def test_a_tokenizer_that_is_not_the_named_one(with_units: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", seed=1, image_units=True)
    shutil.copy(other / "image_tokenizer.onnx", with_units / "image_tokenizer.onnx")
    write_checksums(with_units)
    assert "is not the one that config.json names" in sentence(lambda: Bundle.load(with_units))


@pytest.mark.parametrize("graph", ["image_tokenizer", "image_decoder"])
def test_image_units_that_the_graphs_do_not_have(with_units: Path, graph: str) -> None:
    change_config(with_units, image_units__codes=3)
    graphs = Graphs(Bundle.load(with_units))
    assert "where config.json asks for int64 [batch, 27]" in sentence(lambda: graphs.open(graph))


def test_find_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = tmp_path / "package"
    (packaged / "bundles" / "default").mkdir(parents=True)
    monkeypatch.setattr("im2sp.bundle.folder._PACKAGED", packaged / "bundles")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert find_bundle("default") == packaged / "bundles" / "default"
    assert find_bundle("mine") == Path("mine")
    assert find_bundle(Path("default")) == Path("default")
    (tmp_path / "someone" / "model").mkdir(parents=True)
    assert find_bundle("someone/model") == Path("someone/model")  # never looked for on the hub
    for here in ("default", "someone/model", Path("mine")):
        assert "leave it out" in sentence(lambda here=here: find_bundle(here, "main"))
    assert "packaged names (default)" in sentence(lambda: find_bundle("other"))
    for name in ("", "../bundles/default", "a\0b", "de\nfault"):
        sentence(lambda name=name: find_bundle(name))
