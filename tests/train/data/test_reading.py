"""Regular units are read back as the words that they were put together from."""

from __future__ import annotations

import numpy as np

from im2sp.speech.units import without_repeats
from im2sp.train.data.pronunciations import Context, Pronunciations, Units
from im2sp.train.data.reading import UNREAD, Reader

TABLE = Pronunciations(
    {
        (None, "^", None): (9, 9),
        (None, "$", None): (8,),
        (None, "a", None): (1, 1),
        ("^", "a", "dog"): (1, 2),  # narrower, so "a" is never said by (1,) there
        (None, "dog", None): (2, 3, 3),
        (None, "dock", None): (2, 3, 4),
        (None, "cat", None): (5, 6),
        (None, "at", None): (6,),
    }
)


def _units(*words: str) -> list[int]:
    said = TABLE.say(words)
    assert said is not None
    return without_repeats(said).tolist()


def test_words_are_read_in_what_says_them() -> None:
    reader = Reader(TABLE)
    for words in (["^", "a", "dog", "$"], ["^", "a", "cat", "$"], ["^", "dock", "a", "cat", "$"], ["^", "$"]):
        assert reader.words(_units(*words)) == words


def test_a_unit_that_two_words_share_belongs_to_both() -> None:
    """ "a" before a dog ends with the unit that "dog" begins with; repeats are removed where they meet."""
    assert _units("^", "a", "dog", "$") == [9, 1, 2, 3, 8]
    assert Reader(TABLE).words([9, 1, 2, 3, 8]) == ["^", "a", "dog", "$"]


def test_what_cannot_be_read_is_one_word_and_as_little_as_can_be() -> None:
    reader = Reader(TABLE)
    assert reader.words([9, 1, 7, 7, 4, 5, 6, 8]) == ["^", "a", UNREAD, "cat", "$"]
    assert reader.words([4, 4]) == [UNREAD]
    assert reader.words([]) == []
    assert reader.words([9, 1, 5, 6]) == ["^", "a", "cat"]  # no end was said


def test_an_end_in_the_middle_is_no_end() -> None:
    assert Reader(TABLE).words([9, 1, 8, 5, 6, 8]) == ["^", "a", UNREAD, "cat", "$"]


def test_sentences_of_random_words_are_read_as_they_were_put_together() -> None:
    random = np.random.default_rng(3)
    names = [f"w{number}" for number in range(30)]
    said: dict[Context, Units] = {
        (None, name, None): tuple(random.integers(0, 40, size=random.integers(3, 7)).tolist()) for name in names
    }
    table = Pronunciations(said | {(None, "^", None): (40,), (None, "$", None): (41,)})
    reader, right = Reader(table), 0
    for _ in range(50):
        words = ["^", *random.choice(names, 6), "$"]
        units = table.say(words)
        assert units is not None
        right += reader.words(without_repeats(units)) == words
    assert right >= 48
