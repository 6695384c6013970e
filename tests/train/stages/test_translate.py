"""The stage `translate` as the paper's recipes use it: with frozen modules, and features of another width."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.stages.translate import freeze
from im2sp.train.training.translator import TranslatorTraining, train_translator

CONFIG = GitDecoderConfig(vocabulary_size=20, image_width=8, width=16, layers=1, heads=2, feed_forward=16)
PROJECTION = ("image_projection", "image_norm")


def test_frozen_modules_stay_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float16))
    (tmp_path / "index.json").write_text(json.dumps({"image_ids": ["a", "b"], "views": ["whole"]}))
    sentences = {"a": [[1, 5, 6, 2]], "b": [[1, 7, 2]]}
    options = TranslatorTraining(steps=3, photos=2, warm_up=1, floor=0.0, average_decay=0.0, frozen=PROJECTION)
    torch.manual_seed(0)
    model = GitDecoder(CONFIG)
    freeze(model, options.frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_translator(model, ImageFeatures(tmp_path), sentences, sentences, options, tmp_path / "out")
    after = GitDecoder.load(tmp_path / "out").state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(PROJECTION)}
    with pytest.raises(Im2SpError, match="no 'image' to freeze: known are image_projection, "):
        freeze(model, ("image",))


def test_features_of_another_width_have_a_new_projection() -> None:
    torch.manual_seed(0)
    source, wider = GitDecoder(CONFIG), GitDecoder(replace(CONFIG, image_width=12, vocabulary_size=30))
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    wider.transfer(source)
    own = ("word_embeddings.", "output.", *PROJECTION)
    for name, value in wider.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith(own) else source.state_dict()[name]), name
