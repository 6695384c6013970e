"""Naming brings the name of a likely class, unless captions teach an object that is known; evidence of all words."""

from __future__ import annotations

import math

import torch

from im2sp.train.models.image_units import ImageUnitsConfig
from im2sp.train.models.naming import LEAST, Naming, NamingOptions, WordEvidence
from im2sp.train.models.tagger import Tagger, TaggerConfig


class Stub(Tagger):
    """A tagger that takes its inputs for units, and its words for logits."""

    def __init__(self, known: list[list[float]]) -> None:
        super().__init__(TaggerConfig(words=2, vocabulary_size=8), ImageUnitsConfig(width=2, class_count=4))
        self.known = torch.tensor(known)

    def inputs(self, units: torch.Tensor) -> torch.Tensor:
        return units

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.known.logit()


def test_classes_of_one_name_share_it() -> None:
    probabilities = [[0.3, 0.3, 0.1, 0.3], [0.1, 0.1, 0.8, 0.0], [0.0, 0.0, 0.4, 0.6], [0.0, 0.0, 0.0, 1.0]]
    tagger = Stub([[0.9, 0.1]] * 3 + [[0.1, 0.9]])
    naming = Naming(tagger, [[4, 5], [4, 5], [], [6]], [1], 8, NamingOptions(bonus=3.0, likely=0.5, known=0.5))
    found = naming(torch.tensor(probabilities).log())
    assert found.tolist() == [[0, 0, 0, 0, 3, 3, 0, 0], [0] * 8, [0, 0, 0, 0, 0, 0, 3, 0], [0] * 8]


def test_evidence_is_of_words_that_say_something() -> None:
    tagger = Stub([[0.9, 0.2]])
    tagger.word_tokens[:] = torch.tensor([3, 5])
    tagger.class_tokens[:] = 0
    tagger.class_tokens[1, 0] = 6  # the name of the second class
    places, content = torch.tensor([0, 3, 6, 0, 5]), torch.tensor([False, True, True, True, False])
    found = WordEvidence(tagger, places, content)(torch.tensor([[0.0, 1.0, 0.0, 0.0]]).log())
    name = torch.tensor(tagger.config.class_trust).logit().item()
    least = torch.tensor(LEAST).logit().item()
    torch.testing.assert_close(found, torch.tensor([[0, math.log(9), name, least, 0]]))


def test_a_tagger_of_lower_rank_says_about_the_same_of_photos_like_those_given() -> None:
    torch.manual_seed(0)
    tagger = Tagger(TaggerConfig(words=12, vocabulary_size=20), ImageUnitsConfig(width=4, class_count=6))
    torch.nn.init.normal_(tagger.linear.weight)
    torch.nn.init.normal_(tagger.linear.bias)
    tagger.normalise(torch.randn(40, 10))
    photos = torch.randn(60, 3) @ torch.randn(3, 10) + torch.randn(10)  # of few kinds
    with torch.no_grad():
        wanted = tagger(photos)
        tagger.factorise(3, photos)
        torch.testing.assert_close(tagger(photos), wanted, atol=1e-4, rtol=1e-4)
        assert (tagger(torch.randn(5, 10)) - wanted[:5]).abs().max() > 0.1
    assert [tuple(layer.weight.shape) for layer in tagger.linear] == [(3, 10), (12, 3)]
