"""Beam search of the text captioner: scores are the model's, photos do not see each other, and a bonus counts once."""

from __future__ import annotations

import copy

import pytest
import torch

from im2sp.train.data.text_tokenizer import BOS, EOS, FORBIDDEN
from im2sp.train.evaluate.beam_search import EnsembleStep, Hypothesis, beam_searches
from im2sp.train.models.git import GitDecoder, GitDecoderConfig

LONGEST = 6


@pytest.fixture(scope="module")
def model() -> GitDecoder:
    torch.manual_seed(4)
    model = GitDecoder(GitDecoderConfig(14, image_width=8, width=32, layers=2, heads=2, feed_forward=64)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0))


def search(model: GitDecoder, features: torch.Tensor, bonus=None, penalty=None) -> list[list[Hypothesis]]:
    with torch.inference_mode():
        return beam_searches(EnsembleStep([model]), features, 3, LONGEST, bonus, penalty)


def test_scores_are_mean_log_probabilities_and_photos_are_alone(model: GitDecoder, features: torch.Tensor) -> None:
    found = search(model, features)
    assert len({tuple(hypotheses[0][1]) for hypotheses in found}) > 1
    for photo, hypotheses in zip(features, found, strict=True):
        ((alone, *_),) = search(model, photo[None])
        assert alone == (pytest.approx(hypotheses[0][0], abs=1e-5), hypotheses[0][1])
        assert [score for score, _ in hypotheses] == sorted((score for score, _ in hypotheses), reverse=True)
        for score, tokens in hypotheses:
            assert not set(tokens) & set(FORBIDDEN)
            said = torch.tensor([BOS, *tokens] + [EOS] * (len(tokens) < LONGEST))
            with torch.inference_mode():
                logits = model(photo[None], said[None, :-1], torch.zeros(1, dtype=torch.int64))[0]
            chosen = logits.log_softmax(-1).gather(1, said[1:, None])
            assert score == pytest.approx(chosen.mean().item(), abs=1e-4)


def test_a_bonus_brings_its_token_once(model: GitDecoder, features: torch.Tensor) -> None:
    without = [hypotheses[0][1] for hypotheses in search(model, features)]
    photo = max(range(5), key=lambda photo: len(without[photo]))
    token = next(token for token in range(4, 14) if token not in without[photo])
    bonus = torch.zeros(5, 14)
    bonus[photo, token] = 30
    with_bonus = [hypotheses[0][1] for hypotheses in search(model, features, bonus)]
    assert with_bonus[photo][0] != token  # no sentence begins with a name
    assert with_bonus[photo].count(token) == 1
    assert [*with_bonus[:photo], *with_bonus[photo + 1 :]] == [*without[:photo], *without[photo + 1 :]]


def test_several_decoders_are_searched_by_their_mean(model: GitDecoder, features: torch.Tensor) -> None:
    torch.manual_seed(5)
    other = GitDecoder(model.config).eval()
    with torch.inference_mode():
        ((best, *_),) = beam_searches(EnsembleStep([model, other]), features[:1], 3, LONGEST)
        said = torch.tensor([BOS, *best[1]] + [EOS] * (len(best[1]) < LONGEST))
        one, two = (
            decoder(features[:1], said[None, :-1], torch.zeros(1, dtype=torch.int64))[0].log_softmax(-1)
            for decoder in (model, other)
        )
    chosen = ((one + two) / 2).log_softmax(-1).gather(1, said[1:, None])
    assert best[0] == pytest.approx(chosen.mean().item(), abs=1e-4)


def test_a_penalty_keeps_a_token_from_coming_again(model: GitDecoder, features: torch.Tensor) -> None:
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.output.bias[5] += 3
    penalty = torch.zeros(14)
    penalty[5] = 30
    without, found = search(model, features), search(model, features, penalty=penalty)
    assert max(tokens.count(5) for hypotheses in without for _, tokens in hypotheses) > 1
    assert {tokens.count(5) for hypotheses in found for _, tokens in hypotheses} <= {0, 1}
