"""Captions in units of the lexicon -> how each word is said between its neighbours.

A token of the captioner is a word. It is said in several ways, as its neighbours shape its ends. The captioner does
not choose among them, as it would have to know the next word: the way follows from the sounds that the words beside it
end and begin with. Rare ways are replaced by the most similar of the frequent ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache

from im2sp.bundle import SPECIAL_TOKENS, Pronunciations, VocabularyConfig
from im2sp.train.data.photo_corpora import caption_words
from im2sp.train.data.text_tokenizer import BOS, EOS, UNKNOWN, TextTokenizer
from im2sp.train.data.unit_words import WordVocabulary
from im2sp.train.lexicon.lexicon import (
    SILENCES,
    LexiconSpeaker,
    PronunciationLexicon,
    Spoken,
    adjacent_phone,
    spoken,
    words_of,
)

CARRIER = "There is {} here."  # names of classes are learned in it, and how a word begins and ends

Sounds = dict[int, tuple[str, str]]  # token -> the phones that it begins and ends with
Context = tuple[str | None, str | None]  # the phones before and after a word


@dataclass(frozen=True)
class VocabularyOptions:
    """Section [vocabulary]: how many ways to say the tokens there are."""

    ways: int = 6500  # of all words; each has at least one
    min_gain: int = 3  # a context has a way of its own if it is said so in so many captions more than in the usual way


@dataclass(frozen=True)
class SpokenSentence:
    """A caption in tokens of a TextTokenizer, BOS and EOS included, and what says each; of those two, silence."""

    tokens: Sequence[int]
    ways: Sequence[Spoken]

    @classmethod
    def of(cls, text: str, tokenizer: TextTokenizer, speaker: LexiconSpeaker) -> SpokenSentence | None:
        """None when a word has no token or no entry, or which units say which word is not known."""
        tokens, said = tokenizer.encode(" ".join(caption_words(text))), speaker.said(text)
        if said is None or UNKNOWN in tokens:
            return None
        (_, start), *inner, (_, end) = said
        words = [units for name, units in inner if name not in SILENCES]
        if len(words) != len(tokens) - 2:
            return None
        return cls(tokens, [spoken(units) for units in (start, *words, end)])


def sounds_of(tokenizer: TextTokenizer, speaker: LexiconSpeaker) -> Sounds:
    """The phones that each word begins and ends with, within a sentence; those of BOS and EOS are silences."""
    found = {BOS: (adjacent_phone("^", 0), adjacent_phone("^", -1)), EOS: (adjacent_phone("$", 0),) * 2}
    for word, token in tokenizer.words.items():
        _, _, _, *said, _, _ = words_of(speaker.phonemize(CARRIER.format(word)))
        found[token] = (adjacent_phone(said[0], 0), adjacent_phone(said[-1], -1)) if said else ("", "")
    return found


class SpokenWords:
    """Counts of the ways in which tokens are said, by the sounds beside them."""

    def __init__(self, sentences: Iterable[SpokenSentence], sounds: Sounds) -> None:
        self._sounds = sounds
        self._seen: defaultdict[int, defaultdict[Context, Counter[Spoken]]] = defaultdict(lambda: defaultdict(Counter))
        for sentence in sentences:
            around: list[int | None] = [None, *sentence.tokens, None]
            for before, token, after, way in zip(around, sentence.tokens, around[2:], sentence.ways, strict=False):
                if way:  # a short word may have no frame of its own
                    last = None if before is None else sounds[before][1]
                    self._seen[token][last, None if after is None else sounds[after][0]][way] += 1

    def vocabulary(
        self, tokenizer: TextTokenizer, units: int, options: VocabularyOptions, pronunciations: PronunciationLexicon
    ) -> WordVocabulary:
        """Make a token of each word that is said, and choose how it is said in each context.

        Args:
            units: of the voice.
            pronunciations: entries of written words between sounds, which replace what the sentences have for a word.
        """
        ways = self._frequent(options.ways)
        chosen = {word: self._by_context(word, ways[word], options.min_gain) for word in sorted(ways)}
        chosen |= _by_token(pronunciations, tokenizer.words, chosen.keys())
        words = sorted(chosen.keys() - {BOS, EOS})
        tokens = {BOS: BOS, EOS: EOS} | {word: token for token, word in enumerate(words, SPECIAL_TOKENS)}
        subwords = [(word, way) for word, contexts in chosen.items() for way in dict.fromkeys(contexts.values())]
        places = {pair: place for place, pair in enumerate(subwords)}
        names = sorted({sound for word in tokens for sound in self._sounds[word]})
        sounds: dict[str | None, int | None] = {None: None} | {name: number for number, name in enumerate(names)}
        said = [
            (tokens[word], sounds[before], sounds[after], places[word, way])
            for word, contexts in chosen.items()
            for (before, after), way in contexts.items()
            if {before, after} <= sounds.keys()
        ]
        around = [self._sounds[word] for word in (BOS, BOS, EOS, *words)]  # the first stands for PAD
        first, last = ([names.index(pair[side]) for pair in around] for side in (0, 1))
        return WordVocabulary(
            [tokenizer.decode([word]) for word in words],
            names,
            VocabularyConfig(
                units=units,
                subwords=[list(way) for _, way in subwords],
                pronunciations=Pronunciations(first, last, said),
            ),
        )

    def _frequent(self, count: int) -> dict[int, list[Spoken]]:
        """Ways of each token, the usual one first: that of each, then the most frequent of all."""
        ways = {token: sum(contexts.values(), Counter[Spoken]()) for token, contexts in self._seen.items()}
        kept = {token: [counts.most_common(1)[0][0]] for token, counts in ways.items()}
        rest = [(n, token, way) for token, counts in ways.items() for way, n in counts.most_common()[1:]]
        for _, token, way in sorted(rest, key=lambda one: -one[0])[: max(0, count - len(kept))]:
            kept[token].append(way)
        return kept

    def _by_context(self, token: int, kept: list[Spoken], min_gain: int) -> dict[Context, Spoken]:
        """The way of a token in each context that differs from the next wider one; wider contexts come first."""

        @cache
        def nearest(way: Spoken) -> Spoken:
            if way in kept:
                return way
            return max(kept, key=lambda other: SequenceMatcher(None, way, other, autojunk=False).ratio())

        counts: defaultdict[Context, Counter[Spoken]] = defaultdict(Counter)
        for context, ways in self._seen[token].items():
            for way, count in ways.items():
                for wider in dict.fromkeys(_wider(context)):
                    counts[wider][nearest(way)] += count
        found: dict[Context, Spoken] = {}
        for context in sorted(counts, key=lambda one: (-_wider(one).index(one), one[0] or "", one[1] or "")):
            way, count = counts[context].most_common(1)[0]
            usual = next((found[wider] for wider in _wider(context) if wider in found), None)
            if usual is None or (way != usual and count - counts[context][usual] >= min_gain):
                found[context] = way
        return found


def _by_token(
    pronunciations: PronunciationLexicon, token_of: Mapping[str, int], tokens: Collection[int]
) -> dict[int, dict[Context, Spoken]]:
    """Sort the entries of the words that have one of these tokens."""
    found: defaultdict[int, dict[Context, Spoken]] = defaultdict(dict)
    for (before, word, after), way in pronunciations.entries.items():
        if token_of.get(word) in tokens:
            found[token_of[word]][before, after] = way
    return found


def changed_words(vocabulary: WordVocabulary, ways: Mapping[int, Spoken]) -> PronunciationLexicon:
    """Collect all entries, of written words between sounds, of the words of which one way changed.

    Args:
        ways: of each subword that changed.
    """
    token_of, spoken, names = vocabulary.token_of_subwords(), vocabulary.spoken, [*vocabulary.sounds, None]
    changed = {token_of[subword] for subword in ways}
    entries: dict[tuple[str | None, str, str | None], Spoken] = {}
    for token, before, after, subword in spoken.pronunciations.said if spoken.pronunciations else ():
        if token in changed:
            last, first = (names[-1 if sound is None else sound] for sound in (before, after))
            entries[last, vocabulary.decode([token]), first] = ways.get(subword, tuple(spoken.subwords[subword]))
    return PronunciationLexicon(entries)


def _wider(context: Context) -> list[Context]:
    """A context and those that hold it, the narrowest first."""
    before, after = context
    return [(before, after), (None, after), (before, None), (None, None)]
