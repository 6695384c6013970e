"""Units of a caption -> its text, by the lexicon that they came from and the texts that it was made for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from im2sp.arrays import IntArray
from im2sp.train.data.synthesis import clean_text
from im2sp.train.lexicon.captions import Phonemize
from im2sp.train.lexicon.lexicon import SILENCES, PronunciationLexicon, words_of
from im2sp.train.lexicon.reader import LexiconReader

_WRITTEN = re.compile(r"[\w']+")


class LexiconTranscriber:
    """Reads the words of units and spells them; of words that sound alike, the one that is written most often."""

    def __init__(self, lexicon: PronunciationLexicon, texts: Iterable[str], phonemize: Phonemize) -> None:
        """`texts`: a few thousand captions, from which spellings are learned."""
        self._reader = LexiconReader(lexicon)
        counts: dict[str, Counter[str]] = {}
        for text in texts:
            cleaned = clean_text(text)
            spoken = [word for word in words_of(phonemize(cleaned)) if word not in SILENCES] if cleaned else []
            written = _WRITTEN.findall(cleaned.lower())
            if len(spoken) == len(written):  # else a number or an abbreviation is several words
                for sound, word in zip(spoken, written, strict=True):
                    counts.setdefault(sound, Counter())[word] += 1
        self._spellings = {sound: words.most_common(1)[0][0] for sound, words in counts.items()}

    def text(self, units: Sequence[int] | IntArray) -> str:
        """Units without repeats -> text; what the lexicon or the texts do not know is left out."""
        return " ".join(spelled for word in self._reader.words(units) if (spelled := self._spellings.get(word)))
