"""Stage `reward-translator`: the translator's own sentences, read as words, and the better of them made likelier.

Regular units can be read back (`data.reading`), so what a translator says is compared with what people wrote
word by word, by CIDEr-D, and nothing has to be spoken or heard for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from im2sp.decoding.vocabulary import Vocabulary
from im2sp.train.data.pronunciations import END, START, Pronunciations, phones_of_words
from im2sp.train.data.reading import Reader
from im2sp.train.data.text_tokenizer import EOS
from im2sp.train.data.unit_subwords import UnitSubwords

_REMEMBERED = 500_000  # sentences that were read; the same ones come again and again
_MARKS = {ord(mark): None for mark in "\u02c8\u02cc.,!?;:"}  # stress and punctuation, which make no other word


class WordSymbols:
    """Words as numbers, by the phones that they are said with: those of texts, and those read in tokens.

    Args:
        phones_of: a text -> the phones that the voice says it with.
    """

    def __init__(self, table: Pronunciations, subwords: UnitSubwords, phones_of: Callable[[str], list[str]]) -> None:
        self._reader, self._phones_of = Reader(table), phones_of
        self._vocabulary = Vocabulary(subwords.vocabulary())
        self._numbers: dict[str, int] = {}
        self._read: dict[tuple[int, ...], list[int]] = {}

    def of_text(self, text: str) -> list[int]:
        """Symbols of a sentence that people or a teacher wrote; its end is one, too."""
        return self._symbols(phones_of_words(self._phones_of(text)))

    def of_texts(self, texts: Mapping[str, Iterable[str]]) -> dict[str, list[list[int]]]:
        """Those of all sentences about each photo."""
        return {image_id: [self.of_text(text) for text in about] for image_id, about in texts.items()}

    def of_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Symbols that are read in tokens without BOS; the end of the sentence only where EOS comes last."""
        key = tuple(tokens)
        if key not in self._read:
            if len(self._read) >= _REMEMBERED:
                self._read.clear()
            words = self._reader.words(self._vocabulary.decode(key))
            ended = key[-1:] == (EOS,)
            self._read[key] = self._symbols([word for word in words if ended or word != END])
        return self._read[key]

    def _symbols(self, words: Iterable[str]) -> list[int]:
        plain = (word if word == END else word.translate(_MARKS) for word in words if word != START)
        return [self._numbers.setdefault(word, len(self._numbers)) for word in plain]
