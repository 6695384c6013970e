"""A likely class brings the tokens that say its name."""

from __future__ import annotations

import torch

from im2sp.train.models.naming import Naming, NamingOptions


def test_classes_of_one_name_share_it() -> None:
    naming = Naming([[4, 5], [4, 5], [], [6]], 8, NamingOptions(bonus=3.0, likely=0.5))
    found = naming(torch.tensor([[0.3, 0.3, 0.1, 0.3], [0.1, 0.1, 0.8, 0.0], [0.0, 0.0, 0.4, 0.6]]))
    assert found.tolist() == [[0, 0, 0, 0, 3, 3, 0, 0], [0] * 8, [0, 0, 0, 0, 0, 0, 3, 0]]
