"""Units of the lexicon are read back as the words that they came from."""

from __future__ import annotations

import numpy as np

from im2sp.speech.units import without_repeats
from im2sp.train.lexicon.lexicon import Context, PronunciationLexicon, Units, frames_of
from im2sp.train.lexicon.reader import UNKNOWN, LexiconReader

LEXICON = PronunciationLexicon(
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
    return without_repeats(frames_of(LEXICON.pronounce(words) or ())).tolist()


def test_words_are_read_in_what_says_them() -> None:
    reader = LexiconReader(LEXICON)
    for words in (["^", "a", "dog", "$"], ["^", "a", "cat", "$"], ["^", "dock", "a", "cat", "$"], ["^", "$"]):
        assert reader.words(_units(*words)) == words


def test_a_unit_that_two_words_share_belongs_to_both() -> None:
    """ "a" before a dog ends with the unit that "dog" begins with; repeats are removed where they meet."""
    assert _units("^", "a", "dog", "$") == [9, 1, 2, 3, 8]
    assert LexiconReader(LEXICON).words([9, 1, 2, 3, 8]) == ["^", "a", "dog", "$"]


def test_what_cannot_be_read_is_one_word_and_as_little_as_can_be() -> None:
    reader = LexiconReader(LEXICON)
    assert reader.words([9, 1, 7, 7, 4, 5, 6, 8]) == ["^", "a", UNKNOWN, "cat", "$"]
    assert reader.words([4, 4]) == [UNKNOWN]
    assert reader.words([]) == []
    assert reader.words([9, 1, 5, 6]) == ["^", "a", "cat"]  # no end was said


def test_an_end_in_the_middle_is_no_end() -> None:
    assert LexiconReader(LEXICON).words([9, 1, 8, 5, 6, 8]) == ["^", "a", UNKNOWN, "cat", "$"]


def test_sentences_of_random_words_are_read_as_they_were_put_together() -> None:
    rng = np.random.default_rng(3)
    names = [f"w{number}" for number in range(30)]
    said: dict[Context, Units] = {
        (None, name, None): tuple(rng.integers(0, 40, size=rng.integers(3, 7)).tolist()) for name in names
    }
    lexicon = PronunciationLexicon(said | {(None, "^", None): (40,), (None, "$", None): (41,)})
    reader, right = LexiconReader(lexicon), 0
    for _ in range(50):
        words = ["^", *rng.choice(names, 6), "$"]
        right += reader.words(without_repeats(frames_of(lexicon.pronounce(words) or ()))) == words
    assert right >= 48
