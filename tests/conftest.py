"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiny_bundle import tiny_confidence, write_tiny_bundle

if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side: one thread of torch each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no bug: examples are limited in number, not in time.
settings.register_profile("im2sp", deadline=None)
settings.load_profile("im2sp")


@pytest.fixture(scope="session", autouse=True)
def _no_cache() -> Iterator[None]:
    """Nothing is left in the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IM2SP_CACHE", "off")
        yield


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a valid bundle with random weights; do not change it, copy it."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def unit_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a valid bundle with image units; do not change it, copy it."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "units", image_units=True)


@pytest.fixture(scope="session")
def calibrated_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a confidence; do not change it, copy it."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "calibrated", confidence=tiny_confidence())
