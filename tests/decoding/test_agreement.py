"""Agreement of a caption with sentences drawn by the same decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from im2sp import Captioner
from im2sp.decoding.agreement import SAMPLES, agreement, draw_samples
from im2sp.decoding.options import DecodingOptions


def test_shares_of_samples_that_hold_a_token() -> None:
    samples = [{5, 6, 7}, {5, 8}, {9}]
    assert agreement([5, 6], samples, ()) == pytest.approx((2 + 1) / 6)
    assert agreement([5, 6], samples, {5}) == pytest.approx(1 / 3)  # the other token alone
    assert agreement([5], samples, {5}) == pytest.approx(2 / 3)  # nothing else to compare


def test_samples_follow_the_odds_of_the_decoder(tiny_bundle: Path) -> None:
    captioner = Captioner.from_pretrained(tiny_bundle, threads=1)
    prefix = captioner.encode(np.full((30, 40, 3), 90, dtype=np.uint8))
    samples = captioner.sample(prefix, 10)
    assert len(samples) == SAMPLES
    assert samples == captioner.sample(prefix, 10)
    assert not any({0, 1, 2} & sample for sample in samples)
    one = DecodingOptions(beam=1, temperature=1.0, max_tokens=20)
    drawn = [captioner.decode(prefix, DecodingOptions(**{**vars(one), "seed": seed})) for seed in range(60)]
    singly = np.mean([len(set(result.tokens.tolist())) for result in drawn])
    many = [
        s for seed in range(5) for s in draw_samples(captioner._step(prefix), captioner.vocabulary.specials, 20, seed)
    ]
    assert np.mean([len(sample) for sample in many]) == pytest.approx(singly, rel=0.15)
