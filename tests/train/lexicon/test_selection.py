"""Sentences to record cover what a text uses most."""

from __future__ import annotations

from im2sp.train.lexicon.selection import SelectionConfig, lazy_greedy, select_sentences

WORDS = {
    text: ("^", *text.split(), "$") for text in ("a dog runs", "a dog sits", "the cat sits", "the cat runs far away")
}


def test_every_word_is_recorded_and_a_sentence_without_news_is_not() -> None:
    chosen = select_sentences(dict.fromkeys(WORDS, 1), WORDS, SelectionConfig(min_count=2))
    assert {word for text in chosen for word in WORDS[text]} == {word for words in WORDS.values() for word in words}
    assert len(chosen) == len(set(chosen))
    assert len(select_sentences(dict.fromkeys(WORDS, 1), WORDS, SelectionConfig(sentences=2))) == 2


def test_frequent_contexts_come_first() -> None:
    counts = {"a dog runs": 1, "the cat sits": 50, "a dog sits": 1}
    assert select_sentences(counts, WORDS, SelectionConfig())[0] == "the cat sits"


def test_lazy_greedy_takes_the_largest_gain_each_time() -> None:
    sets, covered = [{1, 2}, {2, 3, 4}, {1}, {5}], set[int]()
    chosen = lazy_greedy(4, lambda index: len(sets[index] - covered), lambda index: covered.update(sets[index]), 9)
    assert list(chosen) == [1, 0, 3]
