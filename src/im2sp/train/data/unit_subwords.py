"""Speech units (repeats removed) <-> subword ids, by byte-pair encoding over units: sentences three times shorter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, trainers

from im2sp.bundle import VocabularyConfig
from im2sp.errors import Im2SpError
from im2sp.files import atomic_write

PAD, BOS, EOS = 0, 1, 2
FIRST_SUBWORD = 3  # token id of subword 0; the runtime's vocabulary counts the same way
_LETTER = 0x4E00  # units are written as single letters for `tokenizers`; this range holds 20,000 plain letters


def _word(units: Sequence[int] | np.ndarray) -> str:
    return "".join(chr(_LETTER + int(unit)) for unit in units)


def _pieces(word: str, vocabulary: dict[str, int], end: int) -> list[str]:
    """What merging leaves of a word with the subwords before number `end`, in the order in which they were learnt."""
    pieces = list(word)
    while True:
        joined = [(vocabulary.get(left + right, end), place) for place, (left, right) in enumerate(pairwise(pieces))]
        rank, place = min(joined, default=(end, 0))
        if rank >= end:
            return pieces
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]


class UnitSubwords:
    """A table of subwords, each a run of units, with the merges that find them."""

    def __init__(self, tokenizer: Tokenizer, units: int) -> None:
        self._tokenizer, self.units = tokenizer, units

    @classmethod
    def train(cls, sentences: Iterable[np.ndarray], units: int, size: int) -> UnitSubwords:
        """Learn `size` subwords (the single units among them) from unit sentences without repeats."""
        tokenizer = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=max(size, units), initial_alphabet=[chr(_LETTER + u) for u in range(units)], show_progress=False
        )
        tokenizer.train_from_iterator((_word(sentence) for sentence in sentences), trainer)
        return cls(tokenizer, units)

    @classmethod
    def from_table(cls, table: Sequence[Sequence[int]], units: int) -> UnitSubwords:
        """The subwords of a table that `table` gave, or a bundle's vocabulary has: they encode as the first ones did.

        A table does not say of which two neighbours a subword was made. Those learnt before it leave it in two pieces.

        Raises:
            Im2SpError: they do not, so the table is none of a byte-pair encoding.
        """
        words = [_word(subword) for subword in table]
        vocabulary = {word: rank for rank, word in enumerate(words)}
        merges = []
        for rank, word in enumerate(words):
            if len(word) > 1:
                pieces = _pieces(word, vocabulary, rank)
                if len(pieces) != 2:
                    raise Im2SpError(f"subword {rank} of the table was not made of two others that stand before it")
                merges.append((pieces[0], pieces[1]))
        return cls(Tokenizer(models.BPE(vocab=vocabulary, merges=merges)), units)

    def table(self) -> list[list[int]]:
        """Units of every subword, by subword id: what goes into the bundle's vocabulary."""
        words = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        return [[ord(letter) - _LETTER for letter in word] for word, _ in words]

    def vocabulary(self, said: list[list[int]] | None = None) -> VocabularyConfig:
        """What the runtime reads tokens by; `said` where a voice has other units than those of the subwords."""
        return VocabularyConfig(units=self.units, subwords=self.table(), output_units=said)

    @property
    def checksum(self) -> str:
        """SHA-256 of all that decides how units are encoded."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    @property
    def vocabulary_size(self) -> int:
        """Token ids: subwords and pad, BOS, EOS."""
        return FIRST_SUBWORD + self._tokenizer.get_vocab_size()

    def encode(self, units: np.ndarray) -> list[int]:
        """Units without repeats -> token ids with BOS and EOS."""
        return [BOS, *(FIRST_SUBWORD + i for i in self._tokenizer.encode(_word(units)).ids), EOS]

    def save(self, path: Path) -> None:
        """Write the tokenizers JSON."""
        with atomic_write(path) as temporary:
            self._tokenizer.save(str(temporary))

    @classmethod
    def load(cls, path: Path, units: int) -> UnitSubwords:
        """Read what `save` wrote."""
        return cls(Tokenizer.from_file(str(path)), units)
