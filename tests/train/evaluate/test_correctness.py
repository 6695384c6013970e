"""Which captions are correct about their photos."""

from __future__ import annotations

import pytest

from im2sp.train.evaluate.chair import ObjectLabels
from im2sp.train.evaluate.correctness import CorrectnessRule

LABELS = ObjectLabels({"one": ["frisbee"]}, {("dog",): "dog", ("cat",): "cat", ("frisbee",): "frisbee"})
REFERENCES = {"one": ["A brown dog runs.", "Dogs on the grass"], "two": ["a cat", "a cat sleeps"], "three": ["A man"]}


@pytest.mark.parametrize(
    ("caption", "correct"),
    [
        ("The dogs run on grass", True),  # of "dog", "run" and "grass" the references have two
        ("A brown dog with a frisbee", True),  # which stands in the labels alone
        ("A brown dog with a cat", False),  # invented
        ("A dog jumps over water", False),  # one of four content words
        ("on the", False),
        ("", False),
    ],
)
def test_half_of_the_words_and_no_invented_object(caption: str, correct: bool) -> None:
    assert CorrectnessRule(REFERENCES, LABELS).is_correct(caption, "one") == correct


def test_rates_of_people_and_of_chance() -> None:
    rule = CorrectnessRule(REFERENCES, LABELS)
    assert rule.human_rate() == 0.5  # "A brown dog runs." has one of its three words in the other reference of "one"
    captions = {photo: texts[0] for photo, texts in REFERENCES.items()}
    assert rule.chance_rate(captions) == 0
    assert rule.chance_rate(dict.fromkeys(captions, "a cat")) == pytest.approx(1 / 3)
    assert rule.chance_rate({"one": "a dog"}) == 0
