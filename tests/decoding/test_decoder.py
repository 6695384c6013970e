"""The decoder graph as a step function; tests/train/test_export.py compares it with torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from im2sp.captioner import Captioner
from im2sp.decoding.decoder import DecoderStep, Prefix
from im2sp.errors import BundleError


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.from_pretrained(tiny_bundle, threads=1)


def test_a_failing_graph_is_said_in_one_sentence(captioner: Captioner) -> None:
    wrong = np.zeros((2, 1, 3, 5, 8), dtype=np.float32)
    step = DecoderStep(captioner.graphs.open("decoder"), captioner.bundle.config.decoder, Prefix(wrong, wrong))
    with pytest.raises(BundleError, match=r"^decoder\.onnx of the bundle .* failed: [^\n]*$"):
        step(np.array([1]), 0, None)
