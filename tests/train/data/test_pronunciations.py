"""How a voice says words: found in recordings, chosen by their medoid, put together to sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from im2sp.train.data.pronunciations import Pronunciations, RecordedWays, SpokenWord, spoken_words, words_of

A_DOG = ["^", "@", " ", "d", "o", "g", ".", "$"]


def test_words_are_what_stands_between_pauses() -> None:
    assert words_of(A_DOG) == [("^", 0, 1), ("@", 1, 3), ("dog.", 3, 7), ("$", 7, 8)]
    assert words_of(["^", " ", "@", "$"]) == [("^", 0, 1), ("@", 2, 3), ("$", 3, 4)]
    assert words_of(["d", "o"]) == [("do", 0, 2)]
    assert words_of([]) == []


def test_each_word_has_the_units_of_its_time() -> None:
    samples = np.array([320, 640, 320, 320, 640, 320, 320, 640])
    units = np.array([9, 1, 1, 2, 5, 6, 6, 7, 8, 3, 3], np.uint16)
    said = spoken_words(A_DOG, samples, units)
    assert [word.phones for word in said] == ["^", "@", "dog.", "$"]
    assert [word.units for word in said] == [(9,), (1, 1, 2), (5, 6, 6, 7, 8), (3, 3)]
    assert [unit for word in said for unit in word.units] == units.tolist()


def _said(*words: tuple[str, tuple[int, ...]]) -> list[SpokenWord]:
    return [SpokenWord(phones, units) for phones, units in words]


def test_a_word_is_said_as_it_mostly_is_between_its_neighbours() -> None:
    usual, other, odd = (1, 1, 2, 3), (1, 2, 2, 3), (7, 8, 9)
    sentences = [_said(("a", usual), ("b", (4,))), _said(("a", other), ("b", (4,))), _said(("a", odd), ("b", (4,)))]
    sentences += [_said(("a", (6,)), ("c", (5,)))]
    table = RecordedWays.of(sentences, minimum=3).usual()
    said = table.say(["a", "b"])
    assert said is not None
    assert said.dtype == np.uint16
    assert tuple(said[:4]) in (usual, other)  # without repeats they are one way, which two of three chose
    np.testing.assert_array_equal(said[4:], [4])
    # One recording before "c" is too few for an entry of its own, but for another minimum.
    alone = RecordedWays.of(sentences, minimum=1).usual().say(["a", "c"])
    np.testing.assert_array_equal(table.say(["a", "c"])[-1:], [5])  # type: ignore[index]
    np.testing.assert_array_equal(alone, [6, 5])


def test_a_neighbour_that_was_never_there_leaves_the_word_as_it_is_elsewhere() -> None:
    sentences = [_said(("a", (1,)), ("b", (2,))), _said(("b", (3,)), ("a", (1,)))] * 3
    table = RecordedWays.of(sentences).usual()
    np.testing.assert_array_equal(table.say(["c", "b", "a"][1:]), [3, 1])
    np.testing.assert_array_equal(table.say(["a", "a"]), [1, 1])
    assert table.say(["a", "never"]) is None
    assert len(table) > 0


def test_other_ways_are_unlike_each_other_and_those_of_other_neighbours_come_last() -> None:
    usual, near, far, elsewhere = (1, 1, 2, 3, 4), (1, 2, 3, 4, 5), (1, 8, 9), (5, 6)
    recorded = [usual] * 4 + [near] * 2 + [far] * 2
    sentences = [_said(("a", way), ("b", (4,))) for way in recorded] + [_said(("a", elsewhere), ("c", (4,)))] * 3
    recorded = RecordedWays.of(sentences)
    table = recorded.usual()
    entries = table.entries(["a", "b"])
    assert entries == [("", "a", "b"), ("a", "b", "")]
    entry = entries[0]
    assert table.way(entry) == usual
    assert recorded.others(entry, 1) == [far]
    others = recorded.others(entry, 5)
    assert len(others) == len(set(others)) >= 2
    assert others[-1] == elsewhere
    table.change(entry, far)
    np.testing.assert_array_equal(table.say(["a", "b"]), [*far, 4])
    np.testing.assert_array_equal(table.say(["a", "c"]), [*elsewhere, 4])
    assert table.entries(["a", "never"]) is None


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = RecordedWays.of([_said(("a", (1, 1)), ("b", (2,)))] * 3).usual()
    table.change((None, "a", None), (9,))
    table.save(tmp_path / "table")
    again = Pronunciations.load(tmp_path / "table")
    assert len(again) == len(table)
    for words in (["a", "b"], ["b", "a"], ["a"], ["a", "never"]):
        entries = table.entries(words)
        assert again.entries(words) == entries
        assert [again.way(entry) for entry in entries or []] == [table.way(entry) for entry in entries or []]


def test_the_same_recordings_give_the_same_table_in_any_order() -> None:
    random = np.random.default_rng(0)
    sentences = [
        _said(*((word, tuple(random.integers(9, size=6).tolist())) for word in random.choice(list("abc"), 4)))
        for _ in range(150)
    ]
    one, two = RecordedWays.of(sentences).usual(), RecordedWays.of(sentences[::-1]).usual()
    for words in (list("abca"), list("ccab")):
        np.testing.assert_array_equal(one.say(words), two.say(words))
