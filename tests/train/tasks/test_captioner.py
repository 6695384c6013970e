"""Training of a captioner by cross-entropy and by teachers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from im2sp.train.data.caption_targets import Target
from im2sp.train.data.text_tokenizer import BOS, EOS, PAD
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.tasks.captioner import BUCKETED, PhotoSampler, next_token_logits, next_token_loss, teaching_loss

CONFIG = GitDecoderConfig(12, image_width=4, width=8, layers=1, heads=2, feed_forward=16, max_positions=8)


def test_photos_are_drawn_by_weight_and_batches_repeat() -> None:
    targets = [Target(str(n), [[1, *[5] * (n % 7), 2]] * 3, 3.0 if n < 10 else 1.0) for n in range(40)]
    sampler = PhotoSampler(targets, views=2, photos=4, captions=2, seed=1)
    batches = [sampler.at(step) for step in range(BUCKETED)]
    drawn = Counter(photo for batch in batches for photo in batch.photos)
    assert drawn["0"] in range(5, 8)  # of 128 draws, weight 3 of 60
    assert drawn["39"] in range(1, 4)
    assert all(len(sentences) == 2 for batch in batches for sentences in batch.sentences)
    again = PhotoSampler(targets, views=2, photos=4, captions=2, seed=1)
    assert again.at(BUCKETED + 3) == sampler.at(BUCKETED + 3)
    assert again.at(5) == batches[5]


def test_a_captioner_learns_the_mean_of_its_teachers() -> None:
    def logits(said: list[float]) -> torch.Tensor:
        return torch.tensor([said, said]).log()

    taught = [logits([0.5, 0.4, 0.1]), logits([0.1, 0.8, 0.1])]
    mean = torch.tensor([(0.5 * 0.1) ** 0.5, (0.4 * 0.8) ** 0.5, 0.1])
    best = logits((mean / mean.sum()).tolist())
    entropy = -2 * float((best[0].exp() * best[0]).sum())
    assert float(teaching_loss(best, taught)) == pytest.approx(entropy, abs=1e-4)
    assert all(float(teaching_loss(one, taught)) > entropy + 0.05 for one in taught)


def test_padding_is_not_learned() -> None:
    torch.manual_seed(0)
    model, images = GitDecoder(CONFIG).eval(), torch.randn(2, 2, 4)
    tokens = torch.tensor([[BOS, 5, EOS, PAD], [BOS, 6, 7, EOS]])
    logits = next_token_logits(model, images, tokens, torch.arange(2))  # type: ignore[arg-type]
    assert logits.shape == (5, 12)
    alone = next_token_logits(model, images[:1], tokens[:1, :3], torch.zeros(1, dtype=torch.long))  # type: ignore[arg-type]
    torch.testing.assert_close(logits[:2], alone)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([5, EOS, 6, 7, EOS]), reduction="sum")
    assert float(next_token_loss(logits, tokens, 0.0).detach()) == pytest.approx(float(expected.detach()))
