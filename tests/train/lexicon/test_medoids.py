"""Recordings become entries: the medoid of each context."""

from __future__ import annotations

import numpy as np

from im2sp.train.lexicon.medoids import RecordedPronunciations, SpokenWord, align


def _spoken(*words: tuple[str, tuple[int, ...]]) -> list[SpokenWord]:
    return [SpokenWord(phones, units) for phones, units in words]


def test_each_word_has_the_units_of_its_time() -> None:
    samples = 320 * np.array([4, 4, 2, 6, 4])
    words = align(["^", "@", " ", "d", "$"], samples, np.arange(20, dtype=np.uint16))
    assert [word.phones for word in words] == ["^", "@", "d", "$"]
    assert [len(word.units) for word in words] == [3, 6, 6, 5]  # units are a frame ahead
    assert [unit for word in words for unit in word.units] == list(range(20))


def test_an_entry_is_the_medoid_of_its_context() -> None:
    usual, other, odd = (1, 1, 2, 3), (1, 2, 2, 3), (7, 8, 9)
    sentences = [_spoken(("a", units), ("b", (4,))) for units in (usual, other, odd)]
    sentences.append(_spoken(("a", (6,)), ("c", (5,))))
    entries = RecordedPronunciations(sentences, min_recordings=3).lexicon().entries
    assert entries["", "a", "b"] in (usual, other)  # without repeats they are one, which two of three recordings have
    assert ("", "a", "c") not in entries
    assert entries[None, "c", None] == (5,)
    assert RecordedPronunciations(sentences, min_recordings=1).lexicon().entries["", "a", "c"] == (6,)


def test_the_order_of_recordings_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    sentences = [
        _spoken(*((word, tuple(rng.integers(9, size=6).tolist())) for word in rng.choice(list("abc"), 4)))
        for _ in range(150)
    ]
    one, other = RecordedPronunciations(sentences), RecordedPronunciations(sentences[::-1])
    assert one.lexicon().entries == other.lexicon().entries


def test_a_context_that_a_wider_entry_says_as_well_has_no_entry() -> None:
    near = _spoken(("a", (1, 2, 3, 4)), ("b", (4,)))
    far = _spoken(("a", (7, 8)), ("c", (5,)))
    recorded = RecordedPronunciations([near] * 5 + [far] * 3)
    entries = recorded.lexicon(min_gain=0.1).entries
    assert ("", "a", "b") not in entries
    assert entries[None, "a", "~c"] == (7, 8)
    assert recorded.lexicon().entries.keys() > entries.keys()
