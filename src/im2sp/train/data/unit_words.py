"""Tokens that are words of a lexicon: letters of each, and the units that say it between its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import msgspec

from im2sp.bundle import SPECIAL_TOKENS, VocabularyConfig
from im2sp.errors import Im2SpError
from im2sp.files import atomic_write
from im2sp.schema import Schema, SchemaError, parse
from im2sp.train.data.photo_corpora import caption_words

WORD_VOCABULARY = "vocabulary/vocabulary.json"  # of the captioner recipe


class WordVocabulary(Schema, frozen=True, dict=True):
    """Words of the tokens of a captioner, the first that of token 3, and how they are said."""

    words: list[str]
    sounds: list[str]  # names of those of its pronunciations
    spoken: VocabularyConfig

    @cached_property
    def token_of(self) -> dict[str, int]:
        """Tokens of the words."""
        return {word: token for token, word in enumerate(self.words, SPECIAL_TOKENS)}

    def encode(self, text: str) -> list[int] | None:
        """Caption -> tokens without BOS and EOS; None when it is empty or a word has no token."""
        tokens = [self.token_of.get(word, 0) for word in caption_words(text)]
        return tokens if tokens and all(tokens) else None

    def decode(self, tokens: Iterable[int]) -> str:
        """Tokens -> their words; special tokens are left out."""
        return " ".join(self.words[token - SPECIAL_TOKENS] for token in tokens if token >= SPECIAL_TOKENS)

    def token_of_subwords(self) -> list[int]:
        """The token that each subword says; of silences BOS and EOS."""
        assert self.spoken.pronunciations
        found = {subword: token for token, *_, subword in self.spoken.pronunciations.said}
        return [found[subword] for subword in range(len(self.spoken.subwords))]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        with atomic_write(path) as temporary:
            temporary.write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, path: Path) -> WordVocabulary:
        """Read what `save` wrote. Raises Im2SpError when the file is missing or something else."""
        try:
            return parse(path.read_bytes(), cls)
        except (OSError, SchemaError) as error:
            raise Im2SpError(f"{path} cannot be read ({error}): give the output of the captioner recipe") from error


def words_of_tokens(runs: Path) -> Callable[[Iterable[int]], str]:
    """Read which words the tokens of a captioner say. Raises Im2SpError where the recipe has not run."""
    return WordVocabulary.load(runs / WORD_VOCABULARY).decode
