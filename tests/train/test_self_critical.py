"""The reward against pycocoevalcap, and training that follows it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocoevalcap.cider.cider import Cider

from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.tasks.cider_reward import CiderD
from im2sp.train.training.self_critical import (
    Lessons,
    SelfCriticalTraining,
    sample,
    self_critical_loss,
    train_self_critical,
)

FORBIDDEN = (0, 1, 3)
CONFIG = GitDecoderConfig(12, image_width=8, width=16, layers=1, heads=2, feed_forward=16)


@pytest.fixture
def features(tmp_path: Path) -> ImageFeatures:
    folder = tmp_path / "features"
    folder.mkdir()
    np.save(folder / "whole.npy", np.random.default_rng(0).normal(size=(6, 4, 8)).astype(np.float16))
    (folder / "index.json").write_text(json.dumps({"image_ids": list("abcdef"), "views": ["whole"], "backbone": {}}))
    return ImageFeatures(folder)


@pytest.fixture
def model() -> GitDecoder:
    torch.manual_seed(0)
    return GitDecoder(CONFIG).eval()


def test_reward_is_the_cider_of_pycocoevalcap() -> None:
    rng = np.random.default_rng(2)

    def sentence() -> list[int]:
        return rng.integers(4, 9, size=rng.integers(1, 9)).tolist()

    references = {f"p{i}": [sentence() for _ in range(3)] for i in range(30)}
    said = {name: sentence() if i % 3 else list(references[name][0]) for i, name in enumerate(references)}
    words = {name: [" ".join(map(str, caption)) for caption in captions] for name, captions in references.items()}
    _, wanted = Cider().compute_score(words, {name: [" ".join(map(str, caption))] for name, caption in said.items()})
    reward = CiderD(references)
    np.testing.assert_allclose([reward.score(name, caption) for name, caption in said.items()], wanted, atol=1e-9)


def test_reward_of_nothing_is_nothing() -> None:
    assert CiderD({"a": [[4, 5]], "b": [[6]]}).score("a", []) == 0


def test_samples_are_sentences(model: GitDecoder) -> None:
    images = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1))
    tokens = sample(model, images, 5, 6, FORBIDDEN, torch.Generator().manual_seed(2))
    again = sample(model, images, 5, 6, FORBIDDEN, torch.Generator().manual_seed(2))
    assert torch.equal(tokens, again)
    assert tokens.shape == (15, 7)
    for row in tokens.tolist():
        assert row[0] == 1
        said = row[1 : row.index(2) + 1] if 2 in row else row[1:]
        assert not set(said) & set(FORBIDDEN)
        assert set(row[1 + len(said) :]) <= {0}


def test_loss_makes_the_better_sample_likelier(model: GitDecoder) -> None:
    images = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])

    def log_probability(row: int) -> float:
        with torch.inference_mode():
            logits = model(images, tokens[row : row + 1, :-1], torch.tensor([0]))
        targets = tokens[row, 1:]
        return float((logits.log_softmax(-1)[0].gather(-1, targets[:, None])[:, 0] * (targets != 0)).sum())

    before = [log_probability(0), log_probability(1)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(5):
        loss = self_critical_loss(model, images, tokens, torch.tensor([[1.0, 0.0]]), FORBIDDEN)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert log_probability(0) > before[0]
    assert log_probability(1) < before[1]


def test_equal_rewards_teach_nothing(model: GitDecoder) -> None:
    tokens = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])
    loss = self_critical_loss(model, torch.randn(1, 4, 8), tokens, torch.tensor([[0.4, 0.4]]), FORBIDDEN)
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_the_reward_rises(model: GitDecoder, features: ImageFeatures, tmp_path: Path) -> None:
    references = {image: [[4 + row, 5 + row, 2]] for row, image in enumerate("abcdef")}
    options = SelfCriticalTraining(
        steps=120, photos=6, samples=8, longest=5, learning_rate=1e-2, warm_up=5, report_every=20
    )
    train_self_critical(model, features, Lessons(references), FORBIDDEN, options, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["reward"] > 3 * rows[0]["reward"]


def test_what_is_read_in_the_samples_is_rewarded(model: GitDecoder, features: ImageFeatures, tmp_path: Path) -> None:
    """Symbols are halves of token ids here; photos that nobody described have their own references."""
    references = {image: [[2 + row, 3 + row, 1]] for row, image in enumerate("abcd")}
    options = SelfCriticalTraining(
        steps=120, photos=6, samples=8, longest=5, learning_rate=1e-2, warm_up=5, described=0.5, likely=0.01,
        image_tokens_kept=0.8, average_decay=0.9, report_every=20,
    )  # fmt: skip
    lessons = Lessons(references, {"e": [[4, 5, 1]], "f": [[5, 4, 1]]}, read=lambda tokens: [t // 2 for t in tokens])
    trained = train_self_critical(model, features, lessons, FORBIDDEN, options, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["reward"] > 2 * rows[0]["reward"]
    again = train_self_critical(model, features, lessons, FORBIDDEN, options, tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))


def test_cross_entropy_keeps_what_is_said(model: GitDecoder, features: ImageFeatures, tmp_path: Path) -> None:
    """Where no sample is better than another, the given sentences alone are learnt."""
    references = {image: [[9, 10, 2]] for image in "abcdef"}
    options = SelfCriticalTraining(
        steps=80, photos=6, samples=2, longest=4, learning_rate=1e-2, warm_up=5, cross_entropy=1.0
    )
    lessons = Lessons(
        references, sentences={image: [[1, 5, 6, 2]] for image in "abcdef"}, read=lambda tokens: [0] * len(tokens)
    )
    trained = train_self_critical(model, features, lessons, FORBIDDEN, options, tmp_path / "out")
    images = torch.from_numpy(features.batch(list("abcdef"))).float()
    tokens = sample(trained, images, 1, 4, FORBIDDEN, torch.Generator().manual_seed(0), likely=0.3)
    assert tokens[:, :4].tolist() == [[1, 5, 6, 2]] * 6


def test_unlikely_tokens_are_not_drawn(model: GitDecoder) -> None:
    images = torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(1))
    only = sample(model, images, 20, 6, FORBIDDEN, torch.Generator().manual_seed(2), likely=0.999)
    assert torch.equal(only, only[::20].repeat_interleave(20, 0))  # but for the likeliest
    tokens = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])
    loss = self_critical_loss(model, images[:1], tokens, torch.tensor([[1.0, 0.0]]), FORBIDDEN, likely=0.999)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
