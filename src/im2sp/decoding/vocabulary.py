"""Vocabulary: token ids -> speech units, where one token may stand for several units (a unit subword)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """Units of each token, where its pronunciation may depend on the tokens beside it."""

    def __init__(self, config: VocabularyConfig) -> None:
        self.units = config.units
        self.size = config.size
        self.specials = SpecialTokens(config.pad, config.bos, config.eos)
        self.keep_repeats = config.keep_repeats
        self._subwords = config.subwords
        self._pronunciations = config.pronunciations
        said = config.pronunciations.said if config.pronunciations else ()
        self._said = {(token, before, after): subword for token, before, after, subword in said}

    def decode(self, tokens: Sequence[int] | IntArray, *, ended: bool = True) -> IntArray:
        """Decode tokens: int64 [T] -> units of the voice int64 [U] without repeats, also where two subwords meet.

        A vocabulary with `keep_repeats` keeps them. Special tokens emit no unit. Raises Im2SpError for a token outside
        the vocabulary.

        Args:
            ended: whether the sentence has no more tokens; if it may, one whose units depend on the next is left out.
        """
        units = [unit for subword in self.pronounce(tokens, ended=ended) for unit in self._subwords[subword]]
        return np.array(units, dtype=np.int64) if self.keep_repeats else without_repeats(units)

    def units_of(self, tokens: Sequence[int] | IntArray) -> list[list[int]]:
        """Units of each token of a sentence, repeats kept; its first and last have the silences around it, too."""
        ids = self._checked(tokens)
        if self._pronunciations is None or not ids:
            return [self._subwords[token - SPECIAL_TOKENS] if token >= SPECIAL_TOKENS else [] for token in ids]
        said: list[list[int]] = [[] for _ in ids]
        for place, subword in self._in_context(ids):
            said[min(max(place, 0), len(ids) - 1)] += self._subwords[subword]
        return said

    def pronounce(self, tokens: Sequence[int] | IntArray, *, ended: bool = True) -> list[int]:
        """Subwords that say the tokens int64 [T], with silences around a sentence. Raises as `decode` does."""
        ids = self._checked(tokens)
        if self._pronunciations is None:
            return [token - SPECIAL_TOKENS for token in ids if token >= SPECIAL_TOKENS]
        return [subword for place, subword in self._in_context(ids) if ended or place + 1 < len(ids)]

    def _in_context(self, tokens: list[int]) -> Iterator[tuple[int, int]]:
        """Places of tokens and their subwords; bos is at place -1, and eos follows the last token."""
        assert self._pronunciations
        first, last = self._pronunciations.first, self._pronunciations.last
        sentence = [self.specials.bos, *tokens, self.specials.eos]
        for place, token in enumerate(sentence, -1):
            before = last[sentence[place]] if place >= 0 else None
            after = first[sentence[place + 2]] if place < len(tokens) else None
            contexts = (token, before, after), (token, None, after), (token, before, None), (token, None, None)
            subword = next((self._said[context] for context in contexts if context in self._said), None)
            if subword is not None:
                yield place, subword

    def _checked(self, tokens: Sequence[int] | IntArray) -> list[int]:
        ids: list[int] = np.asarray(tokens, dtype=np.int64).tolist()
        for token in ids:
            if not 0 <= token < self.size:
                raise Im2SpError(f"token {token} does not exist: this bundle has tokens from 0 to {self.size - 1}")
        return ids
