"""Tags, captions and the most probable class are swapped together."""

from __future__ import annotations

import numpy as np
import torch

from im2sp.train.models.unit_captioner import TaggedUnits
from im2sp.train.tasks.tag_swap import TagSwap

A, AN, DOG, RED, OWL = 4, 5, 6, 7, 8
SWAP = TagSwap(1.0, [(30, OWL)], kept={RED}, articles=(A, AN), vowels={OWL})


def _seen(tags: list[int], scores: list[float]) -> TaggedUnits:
    return TaggedUnits(torch.zeros(1, 4, dtype=torch.long), torch.tensor([tags]), torch.tensor([scores]))


def test_a_tag_is_swapped_everywhere() -> None:
    sentences = [[[1, A, RED, DOG, 2], [1, A, DOG, 2], [1, RED, 2]]]
    seen, found = SWAP(_seen([RED, DOG], [0.9, 0.8]), sentences, -2, np.random.default_rng(0))
    assert seen.tags.tolist() == [[RED, OWL]]
    assert seen.units.tolist() == [[0, 0, 30, 0]]
    assert found == [[[1, A, RED, OWL, 2], [1, AN, OWL, 2]]]


def test_tags_that_are_doubtful_or_not_said_stay() -> None:
    for tags, scores in (([DOG], [0.1]), ([9], [0.9]), ([RED], [0.9])):
        sentences = [[[1, A, RED, DOG, 2]]]
        seen, found = SWAP(_seen(tags, scores), sentences, -2, np.random.default_rng(0))
        assert seen.tags.tolist() == [tags]
        assert found == sentences
