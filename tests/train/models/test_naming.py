"""A likely class brings the tokens that say its name, unless an object is known that captions teach."""

from __future__ import annotations

import torch

from im2sp.train.models.image_units import ImageUnitsConfig
from im2sp.train.models.naming import Naming, NamingOptions
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
