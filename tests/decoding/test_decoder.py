"""The decoder graph as a step function: hypotheses in one batch do not see each other, and reordering follows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from im2sp.captioner import Captioner
from im2sp.decoding.cache import KVCache
from im2sp.decoding.decoder import DecoderStep, Prefix
from im2sp.errors import BundleError


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.from_pretrained(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def step(captioner: Captioner) -> DecoderStep:
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return DecoderStep(captioner.graphs.open("decoder"), captioner.bundle.config.decoder, captioner.encode(image))


def follow(step: DecoderStep, rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray, KVCache]:
    """Logits, attention and cache after the last token of every row."""
    cache = None
    for position, tokens in enumerate(np.array(rows, dtype=np.int64).T):
        logits, attention, cache = step(tokens, position, cache)
    assert cache is not None
    return logits, attention, cache


def test_rows_of_a_batch_do_not_see_each_other(step: DecoderStep) -> None:
    rows = [[1, 5, 9, 4], [1, 7, 7, 3], [1, 20, 21, 22]]
    together = follow(step, rows)
    for index, row in enumerate(rows):
        logits, attention, _ = follow(step, [row])
        np.testing.assert_allclose(together[0][index], logits[0], atol=1e-5)
        np.testing.assert_allclose(together[1][index], attention[0], atol=1e-5)
    assert not np.allclose(together[0][0], together[0][1], atol=0.1)


def test_a_reordered_cache_goes_on_as_its_hypotheses(step: DecoderStep) -> None:
    _, _, cache = follow(step, [[1, 5, 9], [1, 7, 8]])
    logits, _, _ = step(np.array([4, 6, 4]), 3, cache.reorder(np.array([1, 0, 0])))
    wanted, _, _ = follow(step, [[1, 7, 8, 4], [1, 5, 9, 6], [1, 5, 9, 4]])
    np.testing.assert_allclose(logits, wanted, atol=1e-5)


def test_the_past_and_the_image_matter(step: DecoderStep, captioner: Captioner) -> None:
    config = captioner.bundle.config.decoder
    black = captioner.encode(np.zeros((48, 48, 3), dtype=np.uint8))
    other = DecoderStep(captioner.graphs.open("decoder"), config, black)
    assert not np.allclose(follow(step, [[1, 5, 4]])[0], follow(step, [[1, 6, 4]])[0], atol=0.05)
    assert not np.allclose(follow(step, [[1, 5, 4]])[0], follow(other, [[1, 5, 4]])[0], atol=0.05)


def test_a_failing_graph_is_said_in_one_sentence(captioner: Captioner) -> None:
    wrong = np.zeros((2, 1, 3, 5, 8), dtype=np.float32)
    step = DecoderStep(captioner.graphs.open("decoder"), captioner.bundle.config.decoder, Prefix(wrong, wrong))
    with pytest.raises(BundleError, match=r"^decoder\.onnx of the bundle .* failed: [^\n]*$"):
        step(np.array([1]), 0, None)
