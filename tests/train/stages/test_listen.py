"""What a finished translator says about photos, as known sentences that are counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.pronunciations import Context, Pronunciations, Units
from im2sp.train.data.unit_subwords import FIRST_SUBWORD, UnitSubwords
from im2sp.train.models.beam_search import Hypothesis
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.stages import listen
from im2sp.train.stages.listen import Listening, known_sentences, said_about
from im2sp.train.stages.mend import Sentence
from tests.train.test_distil import write_features

SAID: dict[Context, Units] = {
    (None, word, None): units for word, units in {"a": (0, 0), "dog": (0, 1, 2, 2), "runs": (3,), "cat": (4,)}.items()
}
DOG, CAT = Sentence("a dog runs", ("a", "dog", "runs")), Sentence("a cat runs", ("a", "cat", "runs"))


@pytest.fixture
def features(tmp_path: Path) -> ImageFeatures:
    return ImageFeatures(write_features(tmp_path / "features", list("vwxyz"), 0))


def test_sentences_are_known_by_their_units_without_repeats() -> None:
    bird = Sentence("a bird runs", ("a", "bird", "runs"))
    assert known_sentences([DOG, bird, CAT], Pronunciations(SAID)) == {(0, 1, 2, 3): DOG, (0, 4, 3): CAT}


@pytest.mark.parametrize(("photos", "captioned"), [(100, 5), (5, 5), (3, 3), (2, 2), (1, 1)])
def test_what_is_said_is_counted(
    features: ImageFeatures, monkeypatch: pytest.MonkeyPatch, photos: int, captioned: int
) -> None:
    subwords = UnitSubwords.train([np.array([0, 1, 2, 3]), np.array([0, 4, 3])] * 3, 5, 6)
    asked = 0

    def searches(step: object, views: torch.Tensor, beam: int, longest: int) -> list[list[Hypothesis]]:
        nonlocal asked
        assert views.shape[1] == 1
        asked += len(views)
        dog, cat = (subwords.encode(np.array(units))[1:-1] for units in ([0, 1, 2, 3], [0, 4, 3]))
        unknown: Sequence[int] = [FIRST_SUBWORD]
        best = [dog, cat, dog, unknown, dog][: len(views)]
        return [[(-0.1, list(tokens)), (-0.2, list(cat))] for tokens in best]

    monkeypatch.setattr(listen, "beam_searches", searches)
    model = GitDecoder(
        GitDecoderConfig(vocabulary_size=subwords.vocabulary_size, width=8, heads=2, layers=1, image_width=8)
    )
    known = known_sentences([DOG, CAT], Pronunciations(SAID))
    said = said_about(model, features, sorted(features.rows), subwords, known, Listening(photos=photos, beam=2))
    assert asked == captioned
    counts = {sentence.text: sentence.count for sentence in said}
    wanted = {"a dog runs": [0, 1, 1, 2, 2, 3][captioned], "a cat runs": int(captioned > 1)}
    assert counts == {text: count for text, count in wanted.items() if count}
    assert [sentence.count for sentence in said] == sorted(counts.values(), reverse=True)
