"""Tokens of captions."""

from __future__ import annotations

from pathlib import Path

from im2sp.train.data.text_tokenizer import BOS, EOS, TextTokenizer


def test_text_tokenizer_round_trip(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.of_words(["a", "dog", "runs"])
    tokenizer.save(tmp_path / "t.json")
    tokens = TextTokenizer.load(tmp_path / "t.json").encode("A DOG runs, zebra")
    assert (tokens[0], tokens[-1]) == (BOS, EOS)
    assert tokenizer.decode(tokens) == "a dog runs"
