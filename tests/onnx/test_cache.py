"""Optimised graphs are kept for the next time, and count only where nothing is wrong with them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from im2sp.bundle import Bundle, find_bundle
from im2sp.errors import BundleError
from im2sp.files import write_checksums
from im2sp.onnx import Graphs
from im2sp.onnx.cache import GRAPH, MAX_GRAPHS, WEIGHTS, GraphCache

NAME = "duration_predictor"  # the smallest of the embedded bundle that is kept
UNITS = np.arange(40)[None] % 200


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(find_bundle("default"))


@pytest.fixture
def cache(tmp_path: Path) -> GraphCache:
    return GraphCache(tmp_path / "graphs")


@pytest.fixture(scope="module")
def expected(bundle: Bundle) -> np.ndarray:
    return Graphs(bundle, threads=1).open(NAME).run(units=UNITS)[0]


def opened(bundle: Bundle, cache: GraphCache) -> np.ndarray:
    """What the graph says when it is opened anew."""
    return Graphs(bundle, 1, cache).open(NAME).run(units=UNITS)[0]


def entry_of(bundle: Bundle, cache: GraphCache) -> Path:
    found = cache.find(bundle, NAME)
    assert found is not None
    return found.parent


def test_it_is_kept_and_says_the_same(bundle: Bundle, cache: GraphCache, expected: np.ndarray) -> None:
    assert cache.find(bundle, NAME) is None
    np.testing.assert_array_equal(opened(bundle, cache), expected)
    entry = entry_of(bundle, cache)
    assert sorted(os.listdir(entry)) == [GRAPH, WEIGHTS]
    made = (entry / GRAPH).stat().st_mtime_ns
    np.testing.assert_array_equal(opened(bundle, cache), expected)
    assert (entry / GRAPH).stat().st_mtime_ns == made  # taken, not made anew
    assert os.listdir(entry.parent) == [entry.name]


@pytest.mark.parametrize(
    "damage", [lambda entry: (entry / GRAPH).write_bytes(b"x"), lambda entry: os.truncate(entry / WEIGHTS, 1_000)]
)
def test_what_is_damaged_is_made_anew(
    damage: Callable[[Path], object], bundle: Bundle, cache: GraphCache, expected: np.ndarray
) -> None:
    opened(bundle, cache)
    entry = entry_of(bundle, cache)
    damage(entry)
    np.testing.assert_array_equal(opened(bundle, cache), expected)
    assert entry_of(bundle, cache) == entry
    assert (entry / GRAPH).stat().st_size > 10_000
    np.testing.assert_array_equal(opened(bundle, cache), expected)


@pytest.mark.parametrize(
    "doubt",
    [
        lambda entry: entry.chmod(0o777),
        lambda entry: entry.symlink_to(entry.rename(entry.parent.parent / "elsewhere")),
    ],
)
def test_what_another_could_have_written_does_not_count(
    doubt: Callable[[Path], None], bundle: Bundle, cache: GraphCache, expected: np.ndarray
) -> None:
    opened(bundle, cache)
    doubt(entry_of(bundle, cache))
    assert cache.find(bundle, NAME) is None
    np.testing.assert_array_equal(opened(bundle, cache), expected)


def test_a_broken_graph_is_said_and_not_kept(bundle: Bundle, cache: GraphCache, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "broken"))
    (folder / f"{NAME}.onnx").write_bytes(b"nonsense" * 100_000)
    write_checksums(folder)
    broken = Bundle.load(folder)
    with pytest.raises(BundleError, match=f"^{NAME}"):
        opened(broken, cache)
    assert os.listdir(tmp_path / "graphs") == []


def test_the_oldest_go_first(bundle: Bundle, cache: GraphCache, tmp_path: Path) -> None:
    now = time.time()
    for number in range(MAX_GRAPHS + 2):
        (tmp_path / "graphs" / f"{number:02d}").mkdir(parents=True)
        os.utime(tmp_path / "graphs" / f"{number:02d}", (now, now - 1_000 + number))
    for name, age in ((".abandoned", 10_000), (".at work", 10)):
        (tmp_path / "graphs" / name).mkdir()
        os.utime(tmp_path / "graphs" / name, (now, now - age))
    (tmp_path / "graphs").chmod(0o700)
    opened(bundle, cache)
    youngest = {f"{number:02d}" for number in range(3, MAX_GRAPHS + 2)}
    assert set(os.listdir(tmp_path / "graphs")) == {".at work", entry_of(bundle, cache).name} | youngest


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for wanted, folder in (("", "xdg"), (str(tmp_path / "own"), "own")):
        monkeypatch.setenv("IM2SP_CACHE", wanted)
        cache = GraphCache.of_user()
        assert cache is not None
        opened(bundle, cache)
        assert len(os.listdir(tmp_path / folder / "im2sp" / "graphs")) == 1
    for wanted in ("off", "not/absolute"):
        monkeypatch.setenv("IM2SP_CACHE", wanted)
        assert GraphCache.of_user() is None
