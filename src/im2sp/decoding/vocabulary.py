"""Vocabulary: speech units <-> token ids, where one token may stand for several units (a unit subword)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from im2sp.arrays import IntArray
from im2sp.bundle import SPECIAL_TOKENS, VocabularyConfig
from im2sp.errors import Im2SpError
from im2sp.speech.units import check_units, without_repeats


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids that stand for no unit."""

    pad: int = 0  # fills a batch in training
    bos: int = 1  # what the decoder sees before the first token
    eos: int = 2  # the sentence is complete


class Vocabulary:
    """Byte-pair encoding of units.

    Token t >= 3 stands for the units `subwords[t - 3]`; `output_units[t]` overrides the units emitted for it.
    """

    def __init__(self, config: VocabularyConfig) -> None:
        self.units = config.units
        self.size = SPECIAL_TOKENS + len(config.subwords)
        self.specials = SpecialTokens(config.pad, config.bos, config.eos)
        self._subwords = [tuple(subword) for subword in config.subwords]
        said = config.output_units
        self._output = [said.get(token, subword) for token, subword in enumerate(self._subwords, SPECIAL_TOKENS)]
        self.keep_repeats = config.keep_repeats
        self._ranks = {subword: rank for rank, subword in enumerate(self._subwords)}
        self._longest = max(len(subword) for subword in self._subwords)

    def encode(self, units: Sequence[int] | IntArray) -> IntArray:
        """Encode units of the decoder: int64 [U] (repeats are removed) -> tokens int64 [T], T <= U, no BOS and EOS.

        Neighbours are merged in the order in which the subwords were learnt. Raises Im2SpError for unknown units.
        """
        pieces: list[tuple[int, ...]] = [(unit,) for unit in without_repeats(check_units(units, self.units)).tolist()]
        while self._longest > 1 and (best := self._first_learnt(pieces)) is not None:
            pieces = _merge(pieces, best)
        return np.array([SPECIAL_TOKENS + self._ranks[piece] for piece in pieces], dtype=np.int64)

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

    def _first_learnt(self, pieces: list[tuple[int, ...]]) -> tuple[int, ...] | None:
        """Find the subword learnt first among those that two neighbours of `pieces` make."""
        joined = (left + right for left, right in pairwise(pieces))
        return min((piece for piece in joined if piece in self._ranks), key=self._ranks.__getitem__, default=None)


def _merge(pieces: list[tuple[int, ...]], wanted: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Join neighbours that together are `wanted`, from left to right."""
    merged: list[tuple[int, ...]] = []
    position = 0
    while position < len(pieces):
        if position + 1 < len(pieces) and pieces[position] + pieces[position + 1] == wanted:
            merged.append(wanted)
            position += 2
        else:
            merged.append(pieces[position])
            position += 1
    return merged
