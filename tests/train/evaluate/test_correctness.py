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
        ("Green grass", True),
        ("on the", False),
        ("", False),
    ],
)
def test_half_of_the_words_and_no_invented_object(caption: str, correct: bool) -> None:
    assert CorrectnessRule(REFERENCES, LABELS).is_correct(caption, "one") == correct


def test_words_of_every_second_reference_tell_nothing() -> None:
    references = {str(number): ["a man smiles", f"a man with a thing{number}"] for number in range(20)}
    rule = CorrectnessRule(references)
    assert not rule.is_correct("a man smiles", "3")  # all of its words stand in half of all references
    assert rule.is_correct("a man with a thing3", "3")
    assert CorrectnessRule({"3": references["3"]}).is_correct("a man smiles", "3")  # nothing to compare with


def test_a_thing_must_be_named_and_nothing_absent() -> None:
    rule = CorrectnessRule({}, LABELS, {"four": ["lawn mower", "mower"], "one": ["frisbee"]})
    assert rule.is_correct("Two lawn mowers and a dog", "four")  # whose objects are not known
    assert not rule.is_correct("a dog on a lawn", "four")
    assert [rule.is_correct(text, "one") for text in ("a frisbee", "a dog with a frisbee")] == [True, False]


def test_rates_of_people_and_of_chance() -> None:
    rule = CorrectnessRule(REFERENCES, LABELS)
    assert rule.human_rate() == 0.5  # "A brown dog runs." has one of its three words in the other reference of "one"
    captions = {photo: texts[0] for photo, texts in REFERENCES.items()}
    assert rule.chance_rate(captions) == 0
    assert rule.chance_rate(dict.fromkeys(captions, "a cat")) == pytest.approx(1 / 3)
    assert rule.chance_rate({"one": "a dog"}) == 0
