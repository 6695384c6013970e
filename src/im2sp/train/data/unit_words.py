"""Which word each token of a unit vocabulary says: from captions whose words are known in units and in letters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from im2sp.bundle import SPECIAL_TOKENS
from im2sp.speech.units import without_repeats
from im2sp.train.data.photo_corpora import caption_words
from im2sp.train.data.text_tokenizer import BOS, EOS, UNKNOWN, TextTokenizer
from im2sp.train.data.unit_bpe import UnitBPE
from im2sp.train.data.unit_table import UnitRow
from im2sp.train.lexicon.lexicon import SILENCES, PronunciationLexicon

SILENCE, PIECE = -1, -2  # what a token says that says no word of its own

Spoken = tuple[int, ...]  # units of a word, without repeats


def spoken(units: Sequence[int]) -> Spoken:
    """Units of a word, repeats removed."""
    return tuple(without_repeats(units).tolist())


def silences_of(lexicon: PronunciationLexicon) -> set[Spoken]:
    """What the lexicon says for pauses and the ends of sentences."""
    return {spoken(units) for (_, word, _), units in lexicon.entries.items() if word in SILENCES}


@dataclass(frozen=True)
class UnitWords:
    """The word of each token.

    Attributes:
        words: int64 [vocabulary_size], token of a TextTokenizer, SILENCE, or PIECE of a word.
        shares: float32 [vocabulary_size], how much of that word is said by this token.
    """

    words: Tensor
    shares: Tensor

    @classmethod
    def of(cls, rows: Iterable[UnitRow], silences: set[Spoken], bpe: UnitBPE, tokenizer: TextTokenizer) -> UnitWords:
        """Align the words of captions in units with those in letters, where both are as many."""
        said: dict[Spoken, Counter[int]] = defaultdict(Counter)
        for row in rows:
            units = [word for word in map(spoken, row.words()) if word not in silences]
            letters = caption_words(row.text)
            if len(units) == len(letters):
                for word, token in zip(units, tokenizer.encode(" ".join(letters))[1:-1], strict=True):
                    said[word][token] += 1
        totals: Counter[int] = Counter()
        for counts in said.values():
            totals.update(counts)
        words = torch.full((bpe.vocabulary_size,), PIECE)
        shares = torch.ones(bpe.vocabulary_size)
        words[:SPECIAL_TOKENS] = torch.tensor([SILENCE, BOS, EOS])
        for token, subword in enumerate(map(tuple, bpe.subwords()), SPECIAL_TOKENS):
            if subword in silences:
                words[token] = SILENCE
            elif subword in said:
                (word, count), *_ = said[subword].most_common(1)
                if word != UNKNOWN:
                    words[token], shares[token] = word, count / totals[word]
        return cls(words, shares)

    def decode(self, tokens: Iterable[int]) -> list[int]:
        """Tokens of a sentence -> words; a run of pieces is one unknown word."""
        found: list[int] = []
        previous = SILENCE
        for word in self.words[list(tokens)].tolist():
            if word >= 0:
                found.append(word)
            elif word == PIECE and previous != PIECE:
                found.append(UNKNOWN)
            previous = word
        return found

    def save(self, path: Path) -> None:
        """Write both as safetensors."""
        save_file({"words": self.words, "shares": self.shares}, path)

    @classmethod
    def load(cls, path: Path) -> UnitWords:
        """Read what `save` wrote."""
        return cls(**load_file(path))
