"""Stage `pretrain`: what comes out follows from the captions, the options and the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from im2sp.train.data.flickr8k import Caption
from im2sp.train.models.git import GitDecoder
from im2sp.train.stages.pretrain import pretrain
from tests.train.training import tiny_runs


def test_the_seed_decides_the_first_weights_too(tmp_path: Path) -> None:
    features = tiny_runs.photo_features(tmp_path / "features")
    captions = [Caption(name, 0, f"the {name} runs", "dev" if name == "a" else "train") for name in tiny_runs.PHOTOS]
    options = replace(tiny_runs.OPTIONS, steps=2)

    def trained(out: str, seed: int) -> GitDecoder:
        return pretrain(captions, features, tiny_runs.CONFIG, replace(options, seed=seed), tmp_path / out)[0]

    first, again, other = (trained(out, seed).word_embeddings.weight for out, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
