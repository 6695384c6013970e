"""Products in bfloat16 only where the processor is fast at them."""

from __future__ import annotations

import time

import pytest
import torch

from im2sp.train import precision
from im2sp.train.precision import fast_bfloat16, products


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_bfloat16_needs_both_the_wish_and_the_processor(
    fast: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "fast_bfloat16", lambda: fast)
    with products("cpu", wanted):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if fast and wanted else torch.float32)


def test_the_choice_is_that_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for slow in (torch.bfloat16, torch.float32):
        fast_bfloat16.cache_clear()
        with monkeypatch.context() as changed:
            changed.setattr(precision.torch, "mm", lambda a, _, slow=slow: time.sleep(0.01 * (a.dtype == slow)))
            assert fast_bfloat16() == (slow == torch.float32)
    fast_bfloat16.cache_clear()
