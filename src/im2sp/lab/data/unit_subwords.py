"""Speech units (repeats removed) <-> subword ids, by byte-pair encoding over units: sentences three times shorter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, trainers

from im2sp.files import replace_whole

PAD, BOS, EOS = 0, 1, 2
FIRST_SUBWORD = 3  # token id of subword 0; the runtime's vocabulary counts the same way
_LETTER = 0x4E00  # units are written as single letters for `tokenizers`; this range holds 20,000 plain letters


def _word(units: Sequence[int] | np.ndarray) -> str:
    return "".join(chr(_LETTER + int(unit)) for unit in units)


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

    def table(self) -> list[list[int]]:
        """Units of every subword, by subword id: what goes into the bundle's vocabulary."""
        words = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        return [[ord(letter) - _LETTER for letter in word] for word, _ in words]

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
        with replace_whole(path) as temporary:
            self._tokenizer.save(str(temporary))

    @classmethod
    def load(cls, path: Path, units: int) -> UnitSubwords:
        """Read what `save` wrote."""
        return cls(Tokenizer.from_file(str(path)), units)
