"""Unit BPE: speech units <-> subword tokens, by byte-pair encoding that never merges across words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, trainers

from im2sp.bundle import SPECIAL_TOKENS, VocabularyConfig
from im2sp.decoding.vocabulary import SpecialTokens
from im2sp.files import atomic_write
from im2sp.speech.units import without_repeats

_SPECIALS = SpecialTokens()
_ALPHABET = 0x4E00  # units are written as single letters for `tokenizers`; this range holds 20,000 plain letters

UnitSequence = Sequence[int] | np.ndarray


class UnitBPE:
    """Subwords, each a run of units within one word, and the merges that find them."""

    def __init__(self, tokenizer: Tokenizer, units: int) -> None:
        self.units = units  # in the alphabet
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}  # token ids of words that were encoded before

    @classmethod
    def train(
        cls,
        words: Iterable[UnitSequence],
        units: int,
        size: int,
        whole_words: Iterable[UnitSequence] = (),
    ) -> UnitBPE:
        """Learn subwords.

        Args:
            words: units of each word of a text, in any order.
            units: in the alphabet.
            size: subwords wanted, single units included.
            whole_words: words that get a token of their own, beside the subwords, whatever merges make of them.
        """
        tokenizer = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=max(size, units),
            initial_alphabet=[chr(_ALPHABET + unit) for unit in range(units)],
            show_progress=False,
        )
        tokenizer.train_from_iterator(map(_letters, words), trainer)
        learned = json.loads(tokenizer.to_str())["model"]
        for letters in map(_letters, whole_words):
            learned["vocab"].setdefault(letters, len(learned["vocab"]))
        merges = [tuple(pair) for pair in learned["merges"]]
        return cls(Tokenizer(models.BPE(learned["vocab"], merges, ignore_merges=True)), units)

    def subwords(self) -> list[list[int]]:
        """Units of each subword, in the order in which they were learned."""
        vocabulary = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        return [[ord(letter) - _ALPHABET for letter in letters] for letters, _ in vocabulary]

    def vocabulary(self) -> VocabularyConfig:
        """The vocabulary of a bundle."""
        return VocabularyConfig(units=self.units, subwords=self.subwords())

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, special tokens included."""
        return SPECIAL_TOKENS + self._tokenizer.get_vocab_size()

    def encode(self, words: Iterable[UnitSequence]) -> list[int]:
        """Units of each word (repeats are removed) -> token ids with BOS and EOS.

        A word that begins with the last unit of the one before it keeps this unit; decoding removes it.
        """
        tokens = [_SPECIALS.bos]
        for word in words:
            letters = _letters(word)
            if letters not in self._ids:
                self._ids[letters] = [SPECIAL_TOKENS + number for number in self._tokenizer.encode(letters).ids]
            tokens += self._ids[letters]
        return [*tokens, _SPECIALS.eos]

    def save(self, path: Path) -> None:
        """Write the JSON of `tokenizers`."""
        with atomic_write(path) as temporary:
            self._tokenizer.save(str(temporary))

    @classmethod
    def load(cls, path: Path, units: int) -> UnitBPE:
        """Read what `save` wrote."""
        return cls(Tokenizer.from_file(str(path)), units)


def _letters(units: UnitSequence) -> str:
    return "".join(chr(_ALPHABET + unit) for unit in without_repeats(units).tolist())
