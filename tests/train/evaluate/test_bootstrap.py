"""Intervals of caption scores and of their differences."""

from __future__ import annotations

import numpy as np
import pytest

from im2sp.errors import Im2SpError
from im2sp.train.evaluate import caption_metrics
from im2sp.train.evaluate.bootstrap import CaptionStatistics, intervals
from im2sp.train.evaluate.caption_metrics import caption_scores

WORDS = ["a", "man", "dog", "runs", "over", "the", "green", "field", "with", "red", "ball", "in", "his", "hand"]


def _sentences(seed: int, photos: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.permutation(WORDS)[: int(random.integers(8, 14))]) for _ in range(photos)]


@pytest.fixture(scope="module")
def references() -> dict[str, list[str]]:
    """Forty photos, two sentences each."""
    written = _sentences(0, 80)
    return {f"photo{row:02d}": written[2 * row : 2 * row + 2] for row in range(40)}


def _told(references: dict[str, list[str]], wrong: int) -> dict[str, str]:
    """The first reference with its end swapped, but for every `wrong`-th photo, about which it is another's."""
    images = sorted(references)
    told = {}
    for row, image in enumerate(images):
        words = references[images[(row + 1) % 40] if row % wrong == 0 else image][0].split()
        told[image] = " ".join([*words[:-2], words[-1], words[-2]])
    return told


def test_scores_of_all_photos_are_those_of_the_coco_metrics(
    references: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption_metrics, "_meteor", lambda gts, res: 0.0)  # takes a minute for words in any order
    told = _told(references, 4)
    wanted = caption_scores(told, references)
    found = intervals(CaptionStatistics.of(told, references), resamples=50)
    assert found["bleu4"].value == pytest.approx(wanted.bleu4, abs=1e-4)
    assert found["cider"].value == pytest.approx(wanted.cider, abs=1e-6)
    assert found["bleu4"].low < found["bleu4"].value < found["bleu4"].high


def test_a_difference_is_surer_than_what_it_is_of(references: dict[str, list[str]]) -> None:
    these, those = (CaptionStatistics.of(_told(references, wrong), references) for wrong in (4, 2))
    alone, apart = intervals(those, resamples=200), intervals(those, these, resamples=200)
    for score in ("bleu4", "cider"):
        assert apart[score].high < 0
        assert apart[score].high - apart[score].low < alone[score].high - alone[score].low
    assert intervals(these, these, resamples=5)["cider"].value == 0


def test_captions_of_other_photos_are_not_compared(references: dict[str, list[str]]) -> None:
    told = _told(references, 4)
    fewer = CaptionStatistics.of({"photo00": told["photo00"]}, references)
    with pytest.raises(Im2SpError, match="captions of 40 photos cannot be compared with those of 1"):
        intervals(CaptionStatistics.of(told, references), fewer)
    with pytest.raises(Im2SpError, match="photo other has no references"):
        CaptionStatistics.of({"other": "a dog"}, references)
