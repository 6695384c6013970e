"""Text of captions <-> token ids, in training. Never used at run time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from im2sp.files import atomic_write

PAD, BOS, EOS, UNKNOWN = 0, 1, 2, 3
FORBIDDEN = (PAD, BOS, UNKNOWN)  # tokens that no sentence of a captioner may hold
SPECIAL = ["[PAD]", "[BOS]", "[EOS]", "[UNK]"]


class TextTokenizer:
    """Lower-cased words without punctuation."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def of_words(cls, words: Iterable[str]) -> TextTokenizer:
        """Make a tokenizer with these words as its vocabulary, in order after the special tokens."""
        names = [*SPECIAL, *words]
        tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("'", ""), normalizers.Replace("-", " ")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("removed")]
        )
        return cls(tokenizer)

    @property
    def size(self) -> int:
        """Token ids there are."""
        return self._tokenizer.get_vocab_size()

    @property
    def words(self) -> dict[str, int]:
        """Words of the vocabulary and their tokens, without the special ones."""
        return {word: token for word, token in self._tokenizer.get_vocab().items() if token > UNKNOWN}

    def encode(self, text: str) -> list[int]:
        """Text -> token ids with BOS and EOS."""
        return [BOS, *self._tokenizer.encode(text).ids, EOS]

    def tokens_of(self, words: Iterable[str]) -> list[int]:
        """Tokens of the words that the vocabulary has."""
        found = (self._tokenizer.token_to_id(word) for word in words)
        return [token for token in found if token is not None]

    def decode(self, tokens: Iterable[int]) -> str:
        """Token ids -> text; special ids are left out, unknown words too."""
        names = (self._tokenizer.id_to_token(int(token)) for token in tokens if token > UNKNOWN)
        return " ".join(name for name in names if name)

    def save(self, path: Path) -> None:
        """Write the tokenizers JSON."""
        with atomic_write(path) as temporary:
            self._tokenizer.save(str(temporary))

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Read what `save` wrote."""
        return cls(Tokenizer.from_file(str(path)))
