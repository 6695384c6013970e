"""Words as speech units: which word each run of units says, and which of its variants become tokens.

A word is said in many ways, as its neighbours shape its ends. Frequent variants get tokens of their own; a rare one is
replaced by the most similar of these, so that nearly every token of a sentence is a word.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from im2sp.bundle import SPECIAL_TOKENS
from im2sp.errors import Im2SpError
from im2sp.speech.units import without_repeats
from im2sp.train.data.photo_corpora import caption_words
from im2sp.train.data.text_tokenizer import BOS, EOS, UNKNOWN, TextTokenizer
from im2sp.train.data.unit_bpe import UnitBPE, UnitSequence
from im2sp.train.data.unit_table import UnitRow

TOKEN_WORDS, TOKENIZER = "vocabulary/token_words.safetensors", "tagger/tokenizer.json"  # of the captioner recipe
SILENCE, PIECE = -1, -2  # what a token says that says no word of its own
COMPARED = 30  # most frequent variants of a word, among which the most similar one is taken

Spoken = tuple[int, ...]  # units of a word, without repeats


def spoken(units: UnitSequence) -> Spoken:
    """Units of a word, repeats removed."""
    return tuple(without_repeats(units).tolist())


class SpokenWords:
    """Counts of the ways in which words are said.

    Args:
        rows: captions in units and in letters; where both have as many words, they are aligned.
        silences: what is said for pauses and the ends of sentences.
        tokenizer: of the words in letters.
    """

    def __init__(self, rows: Iterable[UnitRow], silences: set[Spoken], tokenizer: TextTokenizer) -> None:
        self.silences = silences
        self.seen: Counter[Spoken] = Counter()
        said: dict[Spoken, Counter[int]] = defaultdict(Counter)
        for row in rows:
            units = [word for word in map(spoken, row.words()) if word]  # a short word may have no frame of its own
            self.seen.update(units)
            units = [word for word in units if word not in silences]
            letters = tokenizer.encode(" ".join(caption_words(row.text)))[1:-1]
            if len(units) == len(letters):
                for word, token in zip(units, letters, strict=True):
                    said[word][token] += 1
        self.words = {variant: counts.most_common(1)[0][0] for variant, counts in said.items()}
        self._variants: dict[int, list[Spoken]] = defaultdict(list)
        self._ranked: dict[int, list[Spoken]] = defaultdict(list)
        for variant, _ in self.seen.most_common():
            if variant in self.words:
                self._ranked[self.words[variant]].append(variant)

    def choose(self, size: int, min_count: int) -> list[Spoken]:
        """Choose what gets a token: the main variant of each word that is said so often, then the most frequent."""
        totals: Counter[int] = Counter()
        for variant, count in self.seen.items():
            totals[self.words.get(variant, SILENCE)] += count
        ranked = [variant for variant, _ in self.seen.most_common() if self.words.get(variant) != UNKNOWN]
        main: dict[int, Spoken] = {}
        for variant in ranked:
            word = self.words.get(variant, SILENCE)
            if word != SILENCE and totals[word] >= min_count:
                main.setdefault(word, variant)
        chosen = list(dict.fromkeys([*main.values(), *ranked]))[:size]
        for variant in sorted(chosen, key=lambda variant: -self.seen[variant]):
            self._variants[self.words.get(variant, SILENCE)].append(variant)
        self.replaced = cache(self._replaced)
        return chosen

    def others(self, variant: Spoken, count: int) -> list[Spoken]:
        """Up to `count` other ways to say the word of a variant, the most usual first."""
        word = self.words.get(variant, SILENCE)
        return [other for other in self._ranked[word] if other != variant][:count] if word >= 0 else []

    def _replaced(self, variant: Spoken) -> Spoken:
        """A variant with a token that says the same word; after `choose`."""
        candidates = self._variants.get(self.words.get(variant, SILENCE), [])[:COMPARED]
        if variant in candidates or variant in self.silences or variant not in self.words or not candidates:
            return variant
        return max(candidates, key=lambda other: SequenceMatcher(None, variant, other, autojunk=False).ratio())


@dataclass(frozen=True)
class TokenWords:
    """The word of each token of a unit vocabulary.

    Attributes:
        words: int64 [vocabulary_size], token of a TextTokenizer, SILENCE, or PIECE of a word.
        shares: float32 [vocabulary_size], how much of that word is said by this token.
    """

    words: Tensor
    shares: Tensor

    @classmethod
    def of(cls, said: SpokenWords, bpe: UnitBPE) -> TokenWords:
        """Look up the words of tokens."""
        counts: Counter[Spoken] = Counter()
        totals: Counter[int] = Counter()
        for variant, count in said.seen.items():
            counts[said.replaced(variant)] += count
            totals[said.words.get(variant, SILENCE)] += count
        words, shares = torch.full((bpe.vocabulary_size,), PIECE), torch.ones(bpe.vocabulary_size)
        words[:SPECIAL_TOKENS] = torch.tensor([SILENCE, BOS, EOS])
        for token, subword in enumerate(map(tuple, bpe.subwords()), SPECIAL_TOKENS):
            word = said.words.get(subword, UNKNOWN)
            if subword in said.silences:
                words[token] = SILENCE
            elif word != UNKNOWN and counts[subword]:
                words[token], shares[token] = word, counts[subword] / totals[word]
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
    def load(cls, path: Path) -> TokenWords:
        """Read what `save` wrote."""
        return cls(**load_file(path))


def words_of_tokens(runs: Path) -> Callable[[Iterable[int]], str]:
    """Read which words the tokens of a unit captioner say. Raises Im2SpError where the recipe has not run."""
    words, tokenizer = runs / TOKEN_WORDS, runs / TOKENIZER
    for path in (words, tokenizer):
        if not path.is_file():
            raise Im2SpError(f"{path} is missing: give the output of the captioner recipe")
    said, letters = TokenWords.load(words), TextTokenizer.load(tokenizer)
    return lambda tokens: letters.decode(said.decode(tokens))
