"""Vocabulary: token ids -> speech units, where one token may stand for several units (a unit subword)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from im2sp.arrays import IntArray
from im2sp.bundle import SPECIAL_TOKENS, VocabularyConfig
from im2sp.errors import Im2SpError
from im2sp.speech.units import without_repeats


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids that stand for no unit."""

    pad: int = 0  # fills a batch in training
    bos: int = 1  # what the decoder sees before the first token
    eos: int = 2  # the sentence is complete


class Vocabulary:
    """Units of each token.

    Token t >= 3 stands for the units `subwords[t - 3]`; `output_units[t]` overrides the units emitted for it.
    """

    def __init__(self, config: VocabularyConfig) -> None:
        self.units = config.units
        self.size = SPECIAL_TOKENS + len(config.subwords)
        self.specials = SpecialTokens(config.pad, config.bos, config.eos)
        said = config.output_units
        self._output = [said.get(token, subword) for token, subword in enumerate(config.subwords, SPECIAL_TOKENS)]
        self.keep_repeats = config.keep_repeats

    def decode(self, tokens: Sequence[int] | IntArray) -> IntArray:
        """Decode tokens: int64 [T] -> units of the voice int64 [U] without repeats, also where two subwords meet.

        A vocabulary with `keep_repeats` keeps them. Special tokens emit no unit. Raises Im2SpError for a token outside
        the vocabulary.
        """
        units: list[int] = []
        for token in np.asarray(tokens, dtype=np.int64).tolist():
            if not 0 <= token < self.size:
                raise Im2SpError(f"token {token} does not exist: this bundle has tokens from 0 to {self.size - 1}")
            if token >= SPECIAL_TOKENS:
                units.extend(self._output[token - SPECIAL_TOKENS])
        return np.array(units, dtype=np.int64) if self.keep_repeats else without_repeats(units)
