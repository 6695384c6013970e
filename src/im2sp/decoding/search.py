"""Search: a step function in, the tokens of one sentence out, by greedy search, beam search or sampling.

A strategy proposes the next tokens, and hypotheses are ranked by length-normalised log probability. A search always
ends, never returns an empty sentence, cuts loops and never emits a padding or begin token. While it runs,
`stable_prefix` has the tokens that cannot change any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import numpy as np

from im2sp.arrays import FloatArray, IntArray
from im2sp.decoding.loops import length_before_repeat, length_without_loop
from im2sp.decoding.options import DecodingOptions, DecodingResult, Ending
from im2sp.decoding.strategies import DoubleArray, strategy_for
from im2sp.decoding.vocabulary import SpecialTokens
from im2sp.errors import BundleError

# The model, one token at a time: (last tokens int64 [batch], their position from 0 = BOS, cache or None before BOS) ->
# (logits float32 [batch, vocabulary], attention float32 [batch, image_tokens], cache with one position more). Row i of
# `cache.reorder(indices)` is row `indices[i]` of the cache.
StepFunction = Callable[[IntArray, int, Any], tuple[FloatArray, FloatArray, Any]]


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
        """Append a token."""
        return Hypothesis(
            (*self.tokens, token), (*self.log_probabilities, log_probability), (*self.attention, attention)
        )

    def end(self, log_probability: float) -> Hypothesis:
        """End it by EOS."""
        return replace(self, log_probabilities=(*self.log_probabilities, log_probability), ending="eos")

    def cut(self, length: int, ending: Ending) -> Hypothesis:
        """Keep the first `length` tokens."""
        return Hypothesis(self.tokens[:length], self.log_probabilities[:length], self.attention[:length], ending)

    def rank(self, length_penalty: float) -> float:
        """Normalise the log probability by length: without it short sentences would always win."""
        return float(self.total / len(self.log_probabilities) ** length_penalty)

    def result(self) -> DecodingResult:
        """Return it as the sentence that was decoded."""
        assert self.ending is not None
        return DecodingResult(
            np.array(self.tokens, dtype=np.int64),
            np.stack(self.attention).astype(np.float32),
            np.array(self.log_probabilities, dtype=np.float32),
            math.fsum(self.log_probabilities) / len(self.log_probabilities),
            self.ending,
        )


class DecodingTask:
    """The search for one sentence with one step function.

    Args:
        token_bonus: float32 [vocabulary], added to the logits from the second token on, until a hypothesis holds a
            token that has one: it brings the name of a thing once, after an article.
        token_evidence: float32 [vocabulary], of which tokens with 0 have no presence penalty; without it all have one.
    """

    def __init__(
        self,
        step: StepFunction,
        specials: SpecialTokens,
        options: DecodingOptions,
        token_bonus: FloatArray | None = None,
        token_evidence: FloatArray | None = None,
    ) -> None:
        self._step = step
        self._specials = specials
        self._options = options
        self._token_bonus, self._token_evidence = token_bonus, token_evidence
        self._propose, self._width = strategy_for(options)
        self._limit = options.max_tokens  # tokens; less where the decoder has fewer positions
        self._live: list[Hypothesis] = [Hypothesis()]
        self._ended: list[Hypothesis] = []  # by EOS, best first, at most `width`
        self._cut: list[Hypothesis] = []  # at a loop or at the limit

    def run(self, positions: int) -> DecodingResult:
        """Decode with a decoder of so many positions. Raises BundleError for logits that are not numbers."""
        for _ in self.steps(positions):
            pass
        return self.result()

    def steps(self, positions: int) -> Iterator[None]:
        """Decode one token at a time, once. Pauses wherever the sentence continues, so that `stable_prefix` can be
        read; `result` is ready when it is exhausted.
        """
        self._limit, cache = min(self._options.max_tokens, positions), None
        tokens = np.array([self._specials.bos], dtype=np.int64)
        for position in range(self._limit):
            logits, attention, cache = self._step(tokens, position, cache)
            log_probabilities = self._log_probabilities(logits, position)
            self._live, parents = self._advance(self._live, log_probabilities, attention)
            if self._is_complete():
                return
            if position + 1 < self._limit:
                yield
                cache = cache.reorder(parents)
                tokens = np.array([hypothesis.tokens[-1] for hypothesis in self._live], dtype=np.int64)
        self._cut.extend(hypothesis.cut(len(hypothesis.tokens), "length") for hypothesis in self._live)

    def stable_prefix(self) -> tuple[int, ...]:
        """Return the tokens that the sentence begins with, whatever comes: what all that may still win have in common.

        Before one has ended by EOS, a loop may be cut, which takes back all but the first copy of its cycle.
        """
        if self._ended:
            rivals = [self._ended[0].tokens, *(hypothesis.tokens for hypothesis in self._live)]
        else:
            rivals = [self._without_repeat(hypothesis.tokens) for hypothesis in self._live]
            rivals += [max(self._cut, key=self._rank).tokens] if self._cut else []
        columns = zip(*rivals, strict=False)
        return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))

    def result(self) -> DecodingResult:
        """Return the sentence, when all steps are done."""
        # A sentence that ended by EOS is whole. A cut one is the last resort, however likely it is.
        return (self._ended[0] if self._ended else max(self._cut, key=self._rank)).result()

    def _rank(self, hypothesis: Hypothesis) -> float:
        return hypothesis.rank(self._options.length_penalty)

    def _without_repeat(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tokens[: length_before_repeat(tokens, self._options.max_repeats, self._limit)]

    def _log_probabilities(self, logits: FloatArray, length: int) -> DoubleArray:
        filtered = _checked(logits, length)
        if self._token_bonus is not None and length:
            for row, hypothesis in enumerate(self._live):
                if not self._token_bonus[list(hypothesis.tokens)].any():
                    filtered[row] += self._token_bonus
        if penalty := self._options.presence_penalty:
            for row, hypothesis in enumerate(self._live):
                said = list(hypothesis.tokens)
                evidence = self._token_evidence
                filtered[row, said] -= penalty if evidence is None else penalty * (evidence[said] != 0)
        filtered[:, [self._specials.pad, self._specials.bos]] = -np.inf
        if length < max(1, self._options.min_tokens):
            filtered[:, self._specials.eos] = -np.inf
        if np.isneginf(filtered.max(axis=-1)).any():
            raise BundleError(f"the decoder rules out every token after {length} tokens: export it again")
        return _log_softmax(filtered)

    def _advance(
        self, live: list[Hypothesis], log_probabilities: DoubleArray, attention: FloatArray
    ) -> tuple[list[Hypothesis], IntArray]:
        """Extend hypotheses by one token; return those that continue, and the row of `live` that each comes from."""
        totals = np.array([hypothesis.total for hypothesis in live])
        places = self._width
        following: list[Hypothesis] = []
        parents: list[int] = []
        for rank, (row, token) in enumerate(zip(*self._propose(totals, log_probabilities), strict=True)):
            if places == 0:
                break
            log_probability = float(log_probabilities[row, token])
            if token == self._specials.eos:
                if rank < self._width:  # as in transformers: less likely ends are none
                    self._ended.append(live[row].end(log_probability))
                continue
            places -= 1
            longer = live[row].extend(int(token), log_probability, attention[row])
            if (length := length_without_loop(longer.tokens, self._options.max_repeats)) < len(longer.tokens):
                self._cut.append(longer.cut(length, "loop"))
            else:
                following.append(longer)
                parents.append(int(row))
        self._ended = sorted(self._ended, key=self._rank, reverse=True)[: self._width]
        return following, np.array(parents, dtype=np.int64)

    def _is_complete(self) -> bool:
        """Whether nothing continues, or nothing that continues ranks above any of `width` complete sentences."""
        if not self._live or len(self._ended) < self._width:
            return not self._live
        if self._options.early_stopping:
            return True
        return max(map(self._rank, self._live)) <= self._rank(self._ended[-1])


def _checked(logits: FloatArray, length: int) -> DoubleArray:
    if not (logits.max(axis=-1) < np.inf).all():  # the maximum of what holds a NaN is NaN
        raise BundleError(f"the decoder gave logits that are not numbers after {length} tokens: export it again")
    return logits.astype(np.float64)


def _log_softmax(logits: DoubleArray) -> DoubleArray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    probabilities: DoubleArray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return probabilities
