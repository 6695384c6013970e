"""Another voice for a finished translator: subwords that were learnt in some units, said in others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from im2sp.errors import Im2SpError
from im2sp.speech.units import without_repeats
from im2sp.train.data.pronunciations import Context, Pronunciations, Units
from im2sp.train.data.resounding import mean_difference, resounded
from im2sp.train.data.unit_subwords import FIRST_SUBWORD, UnitSubwords
from im2sp.train.stages.resound import check, resound, take_over

OLD: dict[str, Units] = {"a": (0, 0), "dog": (1, 1, 2), "runs": (3, 4, 4), "sleeps": (5, 5), "cat": (6, 7, 7)}
NEW: dict[str, Units] = {"a": (7,), "dog": (6, 6, 6, 5), "runs": (4, 3), "sleeps": (2, 2, 1), "cat": (0, 4, 0, 4)}
SENTENCES = [["a", noun, verb] for noun in ("dog", "cat") for verb in ("runs", "sleeps")] * 3


def _table(said: dict[str, Units]) -> Pronunciations:
    contexts: dict[Context, Units] = {(None, word, None): units for word, units in said.items()}
    return Pronunciations(contexts)


def _units(table: Pronunciations, words: list[str]) -> np.ndarray:
    said = table.say(words)
    assert said is not None
    return without_repeats(said)


@pytest.mark.parametrize("size", [8, 12, 40])
def test_sentences_in_subwords_become_the_same_sentences_in_the_new_units(size: int) -> None:
    before, after = _table(OLD), _table(NEW)
    subwords = UnitSubwords.train((_units(before, words) for words in SENTENCES), 8, size)
    table = resounded(subwords, before, after, SENTENCES)
    assert len(table) == len(subwords.table())
    for words in SENTENCES[:4]:
        tokens = subwords.encode(_units(before, words))[1:-1]
        said = without_repeats([unit for token in tokens for unit in table[token - FIRST_SUBWORD]])
        np.testing.assert_array_equal(said, _units(after, words))
    pairs = [(_units(before, words), _units(after, words)) for words in SENTENCES]
    assert mean_difference(table, subwords, pairs) == 0
    assert mean_difference([[1]] * len(table), subwords, pairs) > 0.5


def test_of_two_ways_to_say_a_subword_the_one_that_joins_is_taken() -> None:
    """A word whose units are the same before two others in the old voice, and differ in the new one."""
    first, second = ("", "a", "b"), ("", "a", "c")
    others: dict[Context, Units] = {(None, "b", None): (3,), (None, "c", None): (4,)}
    before = Pronunciations({first: (1, 2), second: (1, 2)} | others)
    after = Pronunciations({first: (5, 6), second: (5, 7)} | others)
    sentences = [["a", "b"]] * 5 + [["a", "c"]] * 2
    subwords = UnitSubwords.train([np.array([1, 2])] * 9, 8, 9)
    (a,) = subwords.encode(np.array([1, 2]))[1:-1]
    assert resounded(subwords, before, after, sentences)[a - FIRST_SUBWORD] == [5, 6]
    assert resounded(subwords, before, after, [["a", "b"]] + [["a", "c"]] * 3)[a - FIRST_SUBWORD] == [5, 7]


def test_what_no_sentence_has_is_silent_and_sentences_that_one_cannot_say_are_left_out() -> None:
    before, after = _table(OLD), _table({word: units for word, units in NEW.items() if word != "cat"})
    subwords = UnitSubwords.train((_units(before, words) for words in SENTENCES), 8, 8)
    table = resounded(subwords, before, after, SENTENCES)
    assert table[6] == table[7] == []  # only a cat is said with these
    assert table[0] == [7]
    with pytest.raises(Im2SpError, match="no sentence can be said by both"):
        resounded(subwords, before, after, [["a", "cat", "runs"]])


def test_the_stage_writes_its_table_once_and_takes_the_translator_over(tmp_path: Path) -> None:
    before, after = _table(OLD), _table(NEW)
    subwords = UnitSubwords.train((_units(before, words) for words in SENTENCES), 8, 12)
    out = tmp_path / "said.json"
    resound(subwords, before, after, SENTENCES, out)
    assert json.loads(out.read_text()) == resounded(subwords, before, after, SENTENCES)
    out.write_text("[]")
    resound(subwords, before, after, SENTENCES, out)
    assert out.read_text() == "[]"

    translator, file = tmp_path / "translator", tmp_path / "subwords.json"
    subwords.save(file)
    with pytest.raises(Im2SpError, match="run the stage `translate` of that run first"):
        take_over(translator, file, tmp_path / "out", tmp_path / "out.json")
    translator.mkdir()
    (translator / "model.safetensors").write_bytes(b"weights")
    (translator / "config.json").write_text("{}")
    take_over(translator, file, tmp_path / "out", tmp_path / "out.json")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"weights"
    assert (tmp_path / "out.json").read_bytes() == file.read_bytes()
    with pytest.raises(Im2SpError, match="missing: run the stage `pronounce`"):
        check((out, tmp_path / "nowhere"))
