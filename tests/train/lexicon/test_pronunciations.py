"""Captions in units of the lexicon: sentences by word, the sounds of words, and how each is said between others."""

from __future__ import annotations

import pytest

from im2sp.decoding.vocabulary import Vocabulary
from im2sp.train.data.text_tokenizer import BOS, EOS, TextTokenizer
from im2sp.train.lexicon.lexicon import LexiconSpeaker, PronunciationLexicon
from im2sp.train.lexicon.pronunciations import (
    SpokenSentence,
    SpokenWords,
    VocabularyOptions,
    changed_words,
    sounds_of,
)

TOKENIZER = TextTokenizer.of_words(["a", "dog", "old"])
A, DOG, OLD = TOKENIZER.tokens_of(["a", "dog", "old"])
ENTRIES = {"^": (0,), "a": (1, 1), "dog": (3, 4, 4), ",": (6,), "$": (9,)}
SPEAKER = LexiconSpeaker(
    PronunciationLexicon({(None, word, None): units for word, units in ENTRIES.items()}),
    lambda text: ["^", *text.lower().rstrip("."), "$"],
)
NOTHING = PronunciationLexicon({})
BEFORE_D, BEFORE_O, RARE = (1, 2), (1, 5), (1, 2, 7)  # ways to say "a"


def sentence(text: str) -> SpokenSentence | None:
    return SpokenSentence.of(text, TOKENIZER, SPEAKER)


def test_a_sentence_is_said_word_by_word_between_silences() -> None:
    said = sentence("A dog, a dog.")
    assert said
    assert said.tokens == [BOS, A, DOG, A, DOG, EOS]
    assert said.ways == [(0,), (1,), (3, 4), (1,), (3, 4), (9,)]  # a pause within it is left out
    assert sentence("a cat") is None  # no token
    assert sentence("an old dog") is None  # no entry
    assert sentence("...") is None


def test_words_begin_and_end_with_phones() -> None:
    assert sounds_of(TOKENIZER, SPEAKER) == {
        BOS: ("~^", "~^"), EOS: ("~$", "~$"), A: ("~a", "~a"), DOG: ("~d", "~g"), OLD: ("~o", "~d"),
    }  # fmt: skip


@pytest.fixture
def said() -> SpokenWords:
    dog, old = (BOS, A, DOG, EOS), (BOS, A, OLD, EOS)
    sentences = [
        *[SpokenSentence(dog, [(0,), BEFORE_D, (3, 4), (9,)])] * 5,
        *[SpokenSentence(old, [(0,), BEFORE_O, (8,), (9,)])] * 3,
        SpokenSentence(old, [(0,), RARE, (), (9,)]),
    ]
    return SpokenWords(sentences, sounds_of(TOKENIZER, SPEAKER))


def test_the_next_word_decides_how_a_word_is_said(said: SpokenWords) -> None:
    vocabulary = said.vocabulary(TOKENIZER, 10, VocabularyOptions(ways=6, min_gain=2), NOTHING)
    spoken = Vocabulary(vocabulary.spoken)
    assert vocabulary.words == ["a", "dog", "old"]
    assert vocabulary.spoken.subwords == [[0], [9], [1, 2], [1, 5], [3, 4], [8]]
    for text, units in (("a dog", [0, 1, 2, 3, 4, 9]), ("a old", [0, 1, 5, 8, 9]), ("dog a", [0, 3, 4, 1, 2, 9])):
        tokens = vocabulary.encode(text)
        assert tokens
        assert spoken.decode(tokens).tolist() == units


def test_rare_ways_and_small_gains_leave_the_usual_way(said: SpokenWords) -> None:
    few = said.vocabulary(TOKENIZER, 10, VocabularyOptions(ways=1, min_gain=1), NOTHING)
    assert few.spoken.subwords == [[0], [9], [1, 2], [3, 4], [8]]  # each word is said
    assert few.spoken.pronunciations
    assert len(few.spoken.pronunciations.said) == 5
    kept = said.vocabulary(TOKENIZER, 10, VocabularyOptions(ways=6, min_gain=4), NOTHING)
    assert kept.spoken.pronunciations
    assert len(kept.spoken.pronunciations.said) == 5  # 3 captions against 1, said as most like BEFORE_D


def test_what_asr_feedback_chose_is_kept_by_word_and_sounds(said: SpokenWords) -> None:
    options = VocabularyOptions(ways=6, min_gain=2)
    before = said.vocabulary(TOKENIZER, 10, options, NOTHING)
    heard = changed_words(before, {before.spoken.subwords.index([1, 5]): (1, 6)})
    usual = {context: way for context, way in heard.entries.items() if way != (1, 6)}
    assert heard.entries.keys() - usual.keys() == {(None, "a", "~o")}
    assert set(usual.values()) == {BEFORE_D}  # all contexts of the word are kept, of no other word
    assert {word for _, word, _ in heard.entries} == {"a"}
    unknown = {(None, "cat", None): (7,), ("~x", "a", None): (7,)}  # no word of this vocabulary, and no such sound
    after = Vocabulary(said.vocabulary(TOKENIZER, 10, options, PronunciationLexicon(heard.entries | unknown)).spoken)
    for text, units in (("a dog", [0, 1, 2, 3, 4, 9]), ("a old", [0, 1, 6, 8, 9])):
        assert after.decode(before.encode(text) or []).tolist() == units
