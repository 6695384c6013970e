"""Comparable words and word error rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from im2sp.errors import Im2SpError
from im2sp.train.data.words import normalise_words
from im2sp.train.evaluate.words import differences, word_error_rate


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("A Dog  runs .", "a dog runs"),
        ("A DOG RUNS", "a dog runs"),  # as the paper's recogniser writes
        ("2 men, 0 dogs and 20 cats; 21 birds", "two men zero dogs and twenty cats 21 birds"),
        ("a 3d film on the 1st day", "a 3d film on the 1st day"),
        ("a T-shirt, t shirt, tee-shirt and Tshirts", "a tshirt tshirt tshirt and tshirts"),
        ("an expert shirt", "an expert shirt"),
        ("the dog's ball, it\u2019s a girls' toy", "the dogs ball its a girls toy"),
        ("a brown-haired boy/girl -- outside", "a brown haired boy girl outside"),
        ("dogs & cats", "dogs and cats"),
        ("snake_case caf\u00e9 \uff12", "snake case caf\u00e9 two"),
        ("?!", ""),
    ],
)
def test_each_rule(written: str, words: str) -> None:
    assert normalise_words(written) == words


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalise_words(text)
    assert normalise_words(once) == once


def test_word_error_rate_counts_all_three_kinds_over_all_sentences() -> None:
    measured = word_error_rate(["a dog runs fast", "Two men."], ["a cat runs", "2 big men"])
    assert (measured.errors, measured.words, measured.sentences) == (3, 6, 2)
    assert measured.rate == pytest.approx(50)
    assert measured.low <= measured.rate <= measured.high


def test_interval_is_seeded_and_closes_when_all_sentences_are_alike() -> None:
    references = ["a b c d", "a b c d e", "a"] * 5
    hypotheses = ["a b c d", "x b c d e", "a"] * 5
    first, again = (word_error_rate(references, hypotheses, seed=7) for _ in range(2))
    assert first == again
    assert first.low < first.rate < first.high
    same = word_error_rate(["a b c d"] * 9, ["a b c x"] * 9)
    assert (same.low, same.rate, same.high) == (25, 25, 25)


def test_words_for_an_empty_reference_are_insertions() -> None:
    assert word_error_rate(["", "a b"], ["c", ""]).errors == 3


@pytest.mark.parametrize(("references", "hypotheses"), [([], []), (["..."], ["a"])])
def test_nothing_to_compare_is_an_error(references: list[str], hypotheses: list[str]) -> None:
    with pytest.raises(Im2SpError):
        word_error_rate(references, hypotheses)


@pytest.mark.parametrize(
    ("heard", "found"),
    [
        ("A dog runs.", []),
        ("the dog runs", [(["a"], ["the"])]),
        ("a dog", [(["runs"], [])]),
        ("so a dog runs", [([], ["so"])]),
        ("", [(["a", "dog", "runs"], [])]),
    ],
)
def test_words_that_differ_are_found(heard: str, found: list[tuple[list[str], list[str]]]) -> None:
    written, words = ["a", "dog", "runs"], normalise_words(heard).split()
    assert [(written[one], words[other]) for one, other in differences("A dog runs", heard)] == found
