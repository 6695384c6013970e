"""Unit BPE merges within words, and decodes as the runtime does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from im2sp.decoding.vocabulary import Vocabulary
from im2sp.speech.units import without_repeats
from im2sp.train.data.unit_bpe import UnitBPE

RNG = np.random.default_rng(0)
WORDS = [RNG.integers(20, size=5) for _ in range(6)]
SENTENCES = [[WORDS[index] for index in RNG.integers(6, size=4)] for _ in range(60)]


def test_subwords_stay_within_words_and_decode_to_their_units(tmp_path: Path) -> None:
    bpe = UnitBPE.train((word for sentence in SENTENCES for word in sentence), 20, 60)
    known = {tuple(without_repeats(word).tolist()) for word in WORDS}
    assert known <= set(map(tuple, bpe.subwords()))  # every word is one token
    assert max(map(len, bpe.subwords())) <= 5
    vocabulary = Vocabulary(bpe.vocabulary())
    for sentence in SENTENCES:
        tokens = bpe.encode(sentence)
        assert (tokens[0], tokens[-1], len(tokens)) == (1, 2, 6)
        assert vocabulary.decode(tokens).tolist() == without_repeats(np.concatenate(sentence)).tolist()
    bpe.save(tmp_path / "bpe.json")
    assert bpe.vocabulary_size == 3 + len(bpe.subwords())
    loaded = UnitBPE.load(tmp_path / "bpe.json", 20)
    assert [loaded.encode(sentence) for sentence in SENTENCES] == [bpe.encode(sentence) for sentence in SENTENCES]
