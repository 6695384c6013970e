"""Decoding: against exhaustive search, and its promises (ends, never silent, no loops, never pad or BOS, seeded)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from im2sp.decoding.loops import length_without_loop
from im2sp.decoding.options import DecodingOptions, DecodingResult
from im2sp.decoding.search import DecodingTask
from im2sp.decoding.vocabulary import SpecialTokens
from im2sp.errors import BundleError, Im2SpError

SPECIALS = SpecialTokens()
VOCABULARY = 6  # pad, bos, eos and three units
NO_LOOPS = 99  # max_repeats that no sentence here reaches


@dataclass(frozen=True)
class History:
    """A cache that remembers the tokens themselves: int64 [batch, past]."""

    tokens: np.ndarray

    def reorder(self, indices: np.ndarray) -> History:
        return History(self.tokens[indices])


class ToyStep:
    """A model without weights: the logits are drawn from the whole history, so that each branch has its own."""

    def __init__(self, seed: int, spread: float = 2.0) -> None:
        self.seed = seed
        self.spread = spread

    def logits(self, history: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng([self.seed, *history]).normal(size=VOCABULARY) * self.spread

    def __call__(self, tokens: np.ndarray, position: int, cache: History | None):
        past = cache.tokens if cache else np.zeros((len(tokens), 0), dtype=np.int64)
        assert past.shape == (len(tokens), position)
        history = np.concatenate([past, tokens[:, None]], axis=1)
        logits = np.stack([self.logits(tuple(row)) for row in history.tolist()]).astype(np.float32)
        attention = np.repeat(tokens[:, None], 2, axis=1).astype(np.float32)  # tells what it was computed from
        return logits, attention, History(history)


class FixedStep(ToyStep):
    """The same logits at every step."""

    def __init__(self, *logits: float) -> None:
        self._logits = np.array(logits)

    def logits(self, history: tuple[int, ...]) -> np.ndarray:
        return self._logits


def search(step: ToyStep, positions: int = 64, **options) -> DecodingResult:
    return DecodingTask(step, SPECIALS, DecodingOptions(**options)).run(positions)


def log_probabilities(step: ToyStep, history: tuple[int, ...], min_tokens: int) -> np.ndarray:
    logits = step.logits(history).astype(np.float32).astype(np.float64)
    logits[[SPECIALS.pad, SPECIALS.bos]] = -np.inf
    if len(history) - 1 < max(1, min_tokens):
        logits[SPECIALS.eos] = -np.inf
    return logits - np.logaddexp.reduce(logits)


def exhaustive(step: ToyStep, max_tokens: int, min_tokens: int, length_penalty: float) -> tuple[float, list[int]]:
    """The best rank of all sentences that end by themselves, and its tokens."""
    best = (-math.inf, [0])
    for length in range(max(1, min_tokens), max_tokens):
        for tokens in itertools.product(range(3, VOCABULARY), repeat=length):
            total = 0.0
            for count, token in enumerate((*tokens, SPECIALS.eos)):
                total += log_probabilities(step, (SPECIALS.bos, *tokens[:count]), min_tokens)[token]
            best = max(best, (total / (length + 1) ** length_penalty, list(tokens)))
    return best


@given(seed=st.integers(0, 10_000), min_tokens=st.integers(0, 3), penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]))
def test_a_wide_beam_finds_what_exhaustive_search_finds(seed: int, min_tokens: int, penalty: float) -> None:
    step = ToyStep(seed)
    limits = {"max_tokens": 4, "min_tokens": min_tokens, "length_penalty": penalty}
    found = search(step, beam=64, max_repeats=NO_LOOPS, **limits)
    rank, tokens = exhaustive(step, **limits)
    assert found.ending == "eos"
    assert found.tokens.tolist() == tokens
    assert found.score == pytest.approx(rank * (len(tokens) + 1) ** (penalty - 1))


@given(
    seed=st.integers(0, 10_000),
    spread=st.floats(0, 50),
    beam=st.integers(1, 6),
    temperature=st.sampled_from([0.0, 1e-9, 0.7, 5.0]),
    max_tokens=st.integers(1, 40),
    min_tokens=st.integers(0, 50),
    max_repeats=st.integers(2, 6),
    positions=st.integers(1, 40),
)
def test_every_search_keeps_the_promises(seed: int, spread: float, positions: int, **options) -> None:
    found = search(ToyStep(seed, spread), positions=positions, seed=seed, **options)
    tokens = found.tokens.tolist()
    assert 1 <= len(tokens) <= min(options["max_tokens"], positions)
    assert all(3 <= token < VOCABULARY for token in tokens)
    assert length_without_loop(tokens, options["max_repeats"]) == len(tokens)
    assert found.ending != "eos" or len(tokens) >= options["min_tokens"]
    assert found.score <= 0
    # attention[t] comes from the step that saw the token before tokens[t]
    np.testing.assert_array_equal(found.attention, np.repeat([[1], *([token] for token in tokens[:-1])], 2, axis=1))


@given(
    seed=st.integers(0, 10_000),
    spread=st.floats(0, 50),
    beam=st.integers(1, 6),
    temperature=st.sampled_from([0.0, 0.7, 5.0]),
    penalty=st.sampled_from([0.0, 1.0, 2.0]),
    max_tokens=st.integers(1, 40),
    min_tokens=st.integers(0, 50),
    max_repeats=st.integers(2, 6),
    positions=st.integers(1, 40),
)
def test_the_stable_prefix_stays(seed: int, spread: float, penalty: float, positions: int, **options) -> None:
    run = DecodingTask(ToyStep(seed, spread), SPECIALS, DecodingOptions(length_penalty=penalty, seed=seed, **options))
    settled = [run.stable_prefix()]
    settled += [run.stable_prefix() for _ in run.steps(positions)]
    found = run.result()
    for earlier, later in itertools.pairwise([*settled, tuple(found.tokens.tolist())]):
        assert later[: len(earlier)] == earlier
    whole = search(ToyStep(seed, spread), positions=positions, length_penalty=penalty, seed=seed, **options)
    assert found.tokens.tolist() == whole.tokens.tolist()


def test_greedy_tokens_are_stable_at_once_unless_they_repeat() -> None:
    run = DecodingTask(Stuck(0), SPECIALS, DecodingOptions(beam=1, max_repeats=3))
    lengths = [len(run.stable_prefix()) for _ in run.steps(64)]
    assert (run.result().tokens.tolist(), run.result().ending) == ([3, 4, 5, 5, 4, 3], "loop")
    assert search(Stuck(0), beam=4, max_repeats=3).ending == "eos"  # rather than cut
    # Of 3 4 5 5 4 3 4 3 4 3: the second 5, 4 and 3 might be first in a copy until what follows them shows otherwise.
    assert lengths == [1, 2, 3, 3, 4, 5, 5, 6, 6]


def test_a_token_bonus_brings_its_token_once_and_not_first() -> None:
    bonus = np.array([0, 0, 0, 0, 0, 9], np.float32)
    options = DecodingOptions(beam=1, max_tokens=4, min_tokens=4)
    run = DecodingTask(FixedStep(0, 0, 0, 2, 1, 0), SPECIALS, options, bonus)
    assert run.run(64).tokens.tolist() == [3, 5, 3, 3]


@pytest.mark.parametrize(("content", "said"), [(None, [3, 4, 5, 3]), ([4, 5], [3, 3, 3, 3]), ([3], [3, 4, 4, 4])])
def test_a_presence_penalty_keeps_what_was_said_from_coming_again(content: list[int] | None, said: list[int]) -> None:
    options = DecodingOptions(beam=1, max_tokens=4, min_tokens=4, max_repeats=0, presence_penalty=5)
    evidence = None if content is None else np.isin(np.arange(VOCABULARY), content).astype(np.float32)
    run = DecodingTask(FixedStep(0, 0, 0, 2, 1.5, 1), SPECIALS, options, token_evidence=evidence)
    assert run.run(64).tokens.tolist() == said


def test_sampling_follows_the_probabilities() -> None:
    logits = np.log([1e-9, 1e-9, 1e-9, 0.5, 0.3, 0.2])
    draws = [search(FixedStep(*logits), temperature=1.0, seed=s, max_tokens=1).tokens[0] for s in range(2000)]
    np.testing.assert_allclose(np.bincount(draws, minlength=6)[3:] / 2000, [0.5, 0.3, 0.2], atol=0.04)


@pytest.mark.parametrize("beam", [1, 4])
def test_a_model_that_only_wants_to_stop_still_speaks(beam: int) -> None:
    found = search(FixedStep(9, 9, 9, 0, 0.1, 0), beam=beam, min_tokens=0)
    assert found.tokens.tolist() == [4]
    assert found.ending == "eos"


class ToyStepWithoutEnd(ToyStep):
    def logits(self, history: tuple[int, ...]) -> np.ndarray:
        logits = super().logits(history)
        logits[SPECIALS.eos] = -np.inf
        return logits


class Stuck(ToyStepWithoutEnd):
    """Says 3 4 5 5 and then 4 3 for ever."""

    def logits(self, history: tuple[int, ...]) -> np.ndarray:
        logits = np.full(VOCABULARY, -5.0)
        logits[[3, 4, 5, 5, *[4, 3] * 40][len(history) - 1]] = 5
        return logits


def test_early_stopping_takes_the_best_of_the_first_sentences_that_end() -> None:
    found = {stop: search(Late(0), beam=2, early_stopping=stop, length_penalty=2.0) for stop in (False, True)}
    assert 0 < len(found[True].tokens) < len(found[False].tokens)


class Late(ToyStep):
    """Ends early with some probability; goes on for a better mean."""

    def logits(self, history: tuple[int, ...]) -> np.ndarray:
        logits = np.full(VOCABULARY, -9.0)
        logits[[3, SPECIALS.eos]] = (1.0, 0.9) if len(history) < 4 else (0.0, 9.0)
        return logits


@pytest.mark.parametrize(
    ("tokens", "repeats", "length"),
    [
        ([], 2, 0),
        ([5, 5], 3, 2),
        ([1, 2, 1, 2, 1, 2], 3, 2),
        ([9, 1, 2, 1, 2, 1, 2], 3, 3),
        ([1, 2, 1, 2, 1], 3, 5),
        ([1, 2, 1, 2, 1, 2, 3], 3, 7),
        ([7, *range(12), *range(12), *range(12)], 3, 13),
        ([4] * 10, 3, 1),
        ([4] * 10, 0, 10),
    ],
)
def test_length_without_loop(tokens: list[int], repeats: int, length: int) -> None:
    assert length_without_loop(tokens, repeats) == length


@pytest.mark.parametrize(
    ("units", "why"),
    [([np.nan, 0, 0], "not numbers"), ([np.inf, 0, 0], "not numbers"), ([-np.inf] * 3, "rules out")],
)
def test_logits_that_cannot_be_decoded_are_said(units: list[float], why: str) -> None:
    with pytest.raises(BundleError, match=why):
        search(FixedStep(0, 0, 0, *units))


@pytest.mark.parametrize(
    "options",
    [
        {"beam": 65}, {"length_penalty": math.nan}, {"temperature": -0.1}, {"max_tokens": 0}, {"max_repeats": 1},
        {"presence_penalty": -1},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(Im2SpError, match=f"^{next(iter(options))} is "):
        DecodingOptions(**options)
