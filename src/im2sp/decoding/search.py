"""Decoding: a step function in, the tokens of one sentence out, by greedy search, beam search or sampling.

A `DecodingTask` is put together from small parts: filters forbid tokens, a strategy proposes the next ones (both in
`strategies`), a ranker orders hypotheses. Whatever the strategy, a search always ends, never returns an empty
sentence, cuts loops, and never says a padding or begin token. While it runs, it tells which tokens are settled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Generic, Literal, Protocol, Self, TypeVar

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.decoding.strategies import (
    BeamSearch,
    DoubleArray,
    Filter,
    GreedySearch,
    NeverSilent,
    NeverSpecial,
    Sampling,
    Strategy,
)
from im2sp.decoding.vocabulary import SpecialTokens
from im2sp.errors import BundleError, Im2SpError

LONGEST_PERIOD = 64  # tokens; a cycle of a longer period is not looked for

Ending = Literal["eos", "loop", "length"]  # by itself, cut because of a cycle, cut at max_tokens


@dataclass(frozen=True)
class DecodingOptions:
    """How to decode. `Captioner.default_options` holds what the bundle recommends."""

    beam: int = 5  # hypotheses kept side by side; 1 is greedy search
    length_penalty: float = 1.0  # hypotheses rank by log probability / length ** length_penalty
    temperature: float = 0.0  # above 0: sample (without a beam) from logits / temperature
    top_k: int = 0  # sample among so many likeliest tokens; 0: among all
    seed: int = 0  # of the sampling
    max_tokens: int = 512  # tokens of a sentence, its end included; the decoder's own limit holds too
    min_tokens: int = 1  # the sentence cannot end by itself before so many tokens; one may be a whole phrase
    max_repeats: int = 4  # so many copies of a token sequence in a row are a loop
    min_confidence: float = 0.0  # below it the captioner abstains; above 0 the bundle must be calibrated

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise Im2SpError(f"{name} is {value}: give a value from {low} to {high}")


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("beam", 1, 64),
    ("length_penalty", 0, 10),
    ("temperature", 0, 100),
    ("top_k", 0, 2**31),
    ("seed", 0, 2**63),
    ("max_tokens", 1, 2**31),
    ("min_tokens", 0, 2**31),
    ("max_repeats", 2, 2**31),
    ("min_confidence", 0, 1),
)


class Cache(Protocol):
    """What a step function remembers of the tokens so far, one row for each hypothesis."""

    def reorder(self, indices: IntArray) -> Self:
        """Row i of the result is row `indices[i]` of this cache; indices: int64 [new batch]."""
        ...


C = TypeVar("C", bound=Cache)


class StepFunction(Protocol[C]):
    """The model, one token at a time."""

    def __call__(self, tokens: IntArray, position: int, cache: C | None, /) -> tuple[FloatArray, FloatArray, C]:
        """(last tokens int64 [batch], their position from 0 = BOS, cache or None before BOS) ->
        (logits float32 [batch, vocabulary], attention float32 [batch, image_tokens], cache with one position more).
        """
        ...


@dataclass(frozen=True)
class DecodingResult:
    """The sentence that a search settled on."""

    tokens: IntArray  # int64 [T], T >= 1, without special tokens
    attention: FloatArray  # float32 [T, image_tokens]: where the model looked when it chose each token
    score: float  # mean log probability of a token, the end of the sentence included
    ending: Ending


@dataclass(frozen=True)
class Hypothesis:
    """A sentence, or the beginning of one."""

    tokens: tuple[int, ...] = ()  # without special tokens
    log_probabilities: tuple[float, ...] = ()  # one for each token, and one for EOS where it ended by itself
    attention: tuple[FloatArray, ...] = field(default=(), repr=False)  # one row for each token
    ending: Ending | None = None

    @property
    def total(self) -> float:
        """Log probability of all of it."""
        return sum(self.log_probabilities)

    def extend(self, token: int, log_probability: float, attention: FloatArray) -> Hypothesis:
        """The same with one token more."""
        return Hypothesis(
            (*self.tokens, token), (*self.log_probabilities, log_probability), (*self.attention, attention)
        )

    def end(self, log_probability: float) -> Hypothesis:
        """The same, ended by itself."""
        return replace(self, log_probabilities=(*self.log_probabilities, log_probability), ending="eos")

    def cut(self, length: int, ending: Ending) -> Hypothesis:
        """The first `length` tokens."""
        return Hypothesis(self.tokens[:length], self.log_probabilities[:length], self.attention[:length], ending)


@dataclass(frozen=True)
class LengthNormalised:
    """Ranks by log probability / length ** penalty; without it short sentences would always win."""

    penalty: float

    def rank(self, hypothesis: Hypothesis) -> float:
        return float(hypothesis.total / len(hypothesis.log_probabilities) ** self.penalty)


class DecodingTask(Generic[C]):
    """One sentence from one step function."""

    def __init__(
        self, step: StepFunction[C], specials: SpecialTokens, options: DecodingOptions, strategy: Strategy | None = None
    ) -> None:
        self._step = step
        self._specials = specials
        self._options = options
        self._strategy = strategy or strategy_for(options)
        self._filters: tuple[Filter, ...] = (NeverSpecial(specials), NeverSilent(specials, options.min_tokens))
        self._ranker = LengthNormalised(options.length_penalty)
        self._limit = options.max_tokens  # tokens; less where the decoder has fewer positions
        self._live: list[Hypothesis] = [Hypothesis()]
        self._ended: list[Hypothesis] = []  # by themselves, best first, at most `width`
        self._cut: list[Hypothesis] = []  # by us

    def run(self, positions: int) -> DecodingResult:
        """Decode with a decoder that has so many positions. Raises BundleError for logits that are not numbers."""
        for _ in self.steps(positions):
            pass
        return self.result()

    def steps(self, positions: int) -> Iterator[None]:
        """Decode one token at a time, once: pause wherever the sentence goes on, so that `stable_prefix` can be asked.

        When it is exhausted, `result` has the sentence.
        """
        self._limit, cache = min(self._options.max_tokens, positions), None
        tokens = np.array([self._specials.bos], dtype=np.int64)
        for position in range(self._limit):
            logits, attention, cache = self._step(tokens, position, cache)
            log_probabilities = self._log_probabilities(logits, position)
            self._live, parents = self._advance(self._live, log_probabilities, attention)
            if self._is_complete(self._live):
                return
            if position + 1 < self._limit:
                yield
                cache = cache.reorder(parents)
                tokens = np.array([hypothesis.tokens[-1] for hypothesis in self._live], dtype=np.int64)
        self._cut.extend(hypothesis.cut(len(hypothesis.tokens), "length") for hypothesis in self._live)

    def stable_prefix(self) -> tuple[int, ...]:
        """The tokens that the sentence begins with, whatever comes: what all hypotheses that may still win share.

        Until one has ended by itself a loop may be cut, which takes back all but the first copy of its cycle; once
        one has, those that get into a loop are lost to it.
        """
        if self._ended:
            rivals = [self._ended[0].tokens, *(hypothesis.tokens for hypothesis in self._live)]
        else:
            rivals = [self._without_repeat(hypothesis.tokens) for hypothesis in self._live]
            rivals += [max(self._cut, key=self._ranker.rank).tokens] if self._cut else []
        columns = zip(*rivals, strict=False)
        return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))

    def result(self) -> DecodingResult:
        """The sentence, when all steps are done."""
        # A sentence that ended by itself is whole; one that was cut is the last resort, however likely it is.
        return _result(self._ended[0] if self._ended else max(self._cut, key=self._ranker.rank))

    def _without_repeat(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tokens[: length_before_repeat(tokens, self._options.max_repeats, self._limit)]

    def _log_probabilities(self, logits: FloatArray, length: int) -> DoubleArray:
        filtered = logits.astype(np.float64)
        if not (filtered.max(axis=-1) < np.inf).all():  # the maximum of what holds a NaN is NaN
            raise BundleError(f"the decoder gave logits that are not numbers after {length} tokens: export it again")
        for rule in self._filters:
            rule.apply(filtered, length)
        highest = filtered.max(axis=-1, keepdims=True)
        if np.isneginf(highest).any():
            raise BundleError(f"the decoder rules out every token after {length} tokens: export it again")
        filtered -= highest
        filtered -= np.log(np.exp(filtered).sum(axis=-1, keepdims=True))
        return filtered

    def _advance(
        self, live: list[Hypothesis], log_probabilities: DoubleArray, attention: FloatArray
    ) -> tuple[list[Hypothesis], IntArray]:
        """The hypotheses that go on after one token more, and the row of `live` that each comes from."""
        totals = np.array([hypothesis.total for hypothesis in live])
        places = self._strategy.width
        following: list[Hypothesis] = []
        parents: list[int] = []
        for row, token in zip(*self._strategy.propose(totals, log_probabilities), strict=True):
            if places == 0:
                break
            log_probability = float(log_probabilities[row, token])
            if token == self._specials.eos:
                self._ended.append(live[row].end(log_probability))
                continue
            places -= 1
            longer = live[row].extend(int(token), log_probability, attention[row])
            if (length := length_without_loop(longer.tokens, self._options.max_repeats)) < len(longer.tokens):
                self._cut.append(longer.cut(length, "loop"))
            else:
                following.append(longer)
                parents.append(int(row))
        self._ended = sorted(self._ended, key=self._ranker.rank, reverse=True)[: self._strategy.width]
        return following, np.array(parents, dtype=np.int64)

    def _is_complete(self, live: Sequence[Hypothesis]) -> bool:
        """Nothing goes on, or nothing that goes on ranks above any of `width` complete sentences."""
        if not live or len(self._ended) < self._strategy.width:
            return not live
        return max(map(self._ranker.rank, live)) <= self._ranker.rank(self._ended[-1])


def decode(step: StepFunction[C], specials: SpecialTokens, options: DecodingOptions, positions: int) -> DecodingResult:
    """One sentence of at most `positions` tokens, by the strategy that `options` name."""
    return DecodingTask(step, specials, options).run(positions)


def strategy_for(options: DecodingOptions) -> Strategy:
    """Sampling with a temperature, else beam search with a beam, else greedy search."""
    if options.temperature > 0:
        return Sampling(options.temperature, options.top_k, np.random.default_rng(options.seed))
    return BeamSearch(options.beam) if options.beam > 1 else GreedySearch()


def length_without_loop(tokens: Sequence[int], max_repeats: int) -> int:
    """Length of `tokens` up to and with the first copy of the cycle that they end in.

    A cycle is `max_repeats` or more copies in a row of one sequence of at most LONGEST_PERIOD tokens; without
    one, the length is that of `tokens`.
    """
    for period in range(1, min(LONGEST_PERIOD, len(tokens) // max_repeats) + 1):
        copies = _repeated(tokens, period) // period + 1
        if copies >= max_repeats:
            return len(tokens) - (copies - 1) * period
    return len(tokens)


def length_before_repeat(tokens: Sequence[int], max_repeats: int, limit: int) -> int:
    """Length of `tokens`, in no loop so far, without those at their end that may turn out to be copies in a loop.

    Of whatever they are continued with, up to `limit` tokens, `length_without_loop` leaves at least this.
    """
    length = len(tokens)
    for period in range(1, min(LONGEST_PERIOD, limit // max_repeats, len(tokens) - 1) + 1):
        first_copy_ends = len(tokens) - _repeated(tokens, period)
        if first_copy_ends + (max_repeats - 1) * period <= limit:
            length = min(length, first_copy_ends)
    return length


def _repeated(tokens: Sequence[int], period: int) -> int:
    """How many tokens at the end equal the one a period before."""
    count = 0
    while count + period < len(tokens) and tokens[-1 - count] == tokens[-1 - count - period]:
        count += 1
    return count


def _result(hypothesis: Hypothesis) -> DecodingResult:
    assert hypothesis.ending is not None
    return DecodingResult(
        np.array(hypothesis.tokens, dtype=np.int64),
        np.stack(hypothesis.attention).astype(np.float32),
        math.fsum(hypothesis.log_probabilities) / len(hypothesis.log_probabilities),
        hypothesis.ending,
    )
