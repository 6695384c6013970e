"""Training loops: a run that was cut off ends with the same weights as one that was not."""

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
from im2sp.train.training import translator as translator_training
from im2sp.train.training.progress import Checkpoint

CONFIG = GitDecoderConfig(vocabulary_size=20, image_width=8, width=16, layers=1, heads=2, feed_forward=16)


class CutOff(Exception):
    """Stands for a kill in the middle of a run."""


@pytest.fixture
def features(tmp_path: Path) -> ImageFeatures:
    folder = tmp_path / "features"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for view in ("whole", "flip"):
        np.save(folder / f"{view}.npy", rng.normal(size=(6, 4, 8)).astype(np.float16))
    (folder / "index.json").write_text(json.dumps({"image_ids": list("abcdef"), "views": ["whole", "flip"]}))
    return ImageFeatures(folder)


@pytest.fixture
def sentences() -> translator_training.Sentences:
    rng = np.random.default_rng(1)
    return {i: [[1, *rng.integers(3, 20, size=rng.integers(2, 6)).tolist(), 2] for _ in range(2)] for i in "abcdef"}


def _stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every step and break off when the saved step is `step`."""

    def save_and_maybe_stop(self: Checkpoint) -> None:
        self.save()
        if self._state()["step"] == step:
            raise CutOff

    monkeypatch.setattr(Checkpoint, "maybe_save", save_and_maybe_stop)


def test_translator_resumes_to_the_same_weights(
    features: ImageFeatures,
    sentences: translator_training.Sentences,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = translator_training.TranslatorTraining(steps=6, photos=2, warm_up=2, report_every=3)

    def train(out: Path) -> GitDecoder:
        torch.manual_seed(5)
        return translator_training.train_translator(GitDecoder(CONFIG), features, sentences, sentences, options, out)

    unbroken = train(tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        _stop_at(4, patch)
        with pytest.raises(CutOff):
            train(tmp_path / "broken")
    resumed = train(tmp_path / "broken")
    for (name, value), other in zip(unbroken.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_activation_checkpoints_change_no_weight(
    features: ImageFeatures, sentences: translator_training.Sentences, tmp_path: Path
) -> None:
    def train(checkpoints: bool) -> GitDecoder:
        torch.manual_seed(5)
        options = translator_training.TranslatorTraining(
            steps=3, photos=2, warm_up=2, activation_checkpoints=checkpoints
        )
        out = tmp_path / str(checkpoints)
        return translator_training.train_translator(GitDecoder(CONFIG), features, sentences, sentences, options, out)

    kept, again = train(False), train(True)
    for (name, value), other in zip(kept.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_a_share_of_the_image_tokens_is_some_of_them_once_each() -> None:
    images = torch.arange(2 * 8.0).reshape(2, 8, 1).expand(2, 8, 3)
    torch.manual_seed(0)
    kept = translator_training.some_tokens(images, 0.5)
    assert kept.shape == (2, 4, 3)
    for photo, row in enumerate(kept[:, :, 0].tolist()):
        assert len(set(row)) == 4
        assert set(row) <= set(images[photo, :, 0].tolist())
    assert sorted(kept[0, :, 0]) != sorted(kept[1, :, 0] - 8)  # each photo has its own
    assert translator_training.some_tokens(images, 1.0) is images
    assert translator_training.some_tokens(images, 0.01).shape == (2, 1, 3)
    with pytest.raises(Im2SpError, match="for image features"):
        translator_training.some_tokens(images.long(), 0.5)


def test_loss_is_the_cross_entropy_of_the_units_and_the_end_alone() -> None:
    torch.manual_seed(3)
    model = GitDecoder(CONFIG).eval()
    features = torch.randn(2, 4, 8)
    rows = [[1, 5, 9, 2], [1, 7, 2], [1, 4, 6, 8, 3, 2]]
    tokens, photo = torch.tensor([row + [0] * (6 - len(row)) for row in rows]), torch.tensor([0, 1, 1])
    with torch.inference_mode():
        found = translator_training.next_token_loss(model, features, tokens, photo, 0.0, bf16=False)
        shares = model(features, tokens, photo).double().log_softmax(-1)
    each = [-shares[row, place, token] for row, said in enumerate(rows) for place, token in enumerate(said[1:])]
    assert len(each) == 3 + 2 + 5
    assert abs(found.item() - torch.stack(each).mean().item()) < 1e-6


def test_translator_learns_a_tiny_language(features: ImageFeatures, tmp_path: Path) -> None:
    named = {image: [[1, 3 + row, 4 + row, 2]] for row, image in enumerate("abcdef")}
    options = translator_training.TranslatorTraining(
        steps=300, photos=6, warm_up=10, learning_rate=5e-3, label_smoothing=0.0, average_decay=0.9
    )
    config = replace(CONFIG, dropout=0.0, image_dropout=0.0)
    model = translator_training.train_translator(GitDecoder(config), features, named, named, options, tmp_path / "out")
    task = translator_training.NextToken(model, options)
    assert translator_training.validation_loss(task, features, named) < 0.2


@pytest.mark.parametrize(("turn", "learnt", "other"), [(0, 7, 5), (None, 5, 7)])
def test_from_some_step_on_only_distilled_sentences_teach(
    features: ImageFeatures, tmp_path: Path, turn: int | None, learnt: int, other: int
) -> None:
    people, written = ({image: [[1, token, token, 2]] for image in "abcdef"} for token in (5, 7))
    options = translator_training.TranslatorTraining(
        steps=60, photos=6, distilled_from=turn, distilled_photos=6, warm_up=5, learning_rate=5e-3, average_decay=0.9
    )
    model = translator_training.train_translator(
        GitDecoder(CONFIG), features, people, people, options, tmp_path / "out", written
    )
    task = translator_training.NextToken(model, options)
    loss = {
        token: translator_training.validation_loss(task, features, {"a": [[1, token, token, 2]]}) for token in (5, 7)
    }
    assert loss[learnt] < 0.5 < 2 < loss[other]


def test_photo_batches_visit_every_photo_once_an_epoch(sentences: translator_training.Sentences) -> None:
    options = translator_training.TranslatorTraining(captions=1)
    batches = translator_training.PhotoBatches(sentences, options, photos=2, views=2)
    seen = [image for step in range(3) for image in batches.at(step).ids]
    assert sorted(seen) == list("abcdef")
    batch = batches.at(0)
    tokens, photo = batch.tensors()
    assert len(batch.ids) == len(batch.views) == 2
    assert tokens.shape[0] == len(photo) == 8  # two captions, filled up
    assert (tokens[2:] == 0).all()
