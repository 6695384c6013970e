"""Training of a captioner by cross-entropy and by reward."""

from __future__ import annotations

from collections import Counter

import torch

from im2sp.train.data.caption_targets import Target
from im2sp.train.data.text_tokenizer import BOS, EOS, PAD, TextTokenizer
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.tasks.captioner import BUCKETED, PhotoSampler
from im2sp.train.tasks.cider_reward import CiderD
from im2sp.train.tasks.scst import CaptionReward, policy_loss, sample

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


def test_samples_start_and_end_properly() -> None:
    torch.manual_seed(0)
    tokens = sample(GitDecoder(CONFIG).eval(), torch.randn(3, 2, 4), count=4, max_tokens=6)
    assert tokens.shape == (12, 7)
    assert (tokens[:, 0] == BOS).all()
    for row in tokens.tolist():
        end = row.index(EOS) if EOS in row else len(row)
        assert all(token == PAD for token in row[end + 1 :])
        assert PAD not in row[1:end]


def test_the_policy_gradient_makes_better_samples_likelier() -> None:
    torch.manual_seed(0)
    model = GitDecoder(CONFIG).eval()
    images = torch.randn(1, 2, 4)
    tokens = torch.tensor([[BOS, 5, EOS], [BOS, 6, EOS]])
    scores = torch.tensor([[1.0, 0.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def preference() -> float:
        logits = model(images, tokens[:1, :1], torch.zeros(1, dtype=torch.long))[0, 0]
        return float((logits[5] - logits[6]).detach())

    before = preference()
    policy_loss(model, images, tokens, scores).backward()
    optimizer.step()
    assert preference() > before


def test_absent_objects_cost_reward() -> None:
    tokenizer = TextTokenizer.of_words(["a", "dog", "cat"])
    references = {"photo": [[4, 5, 2]], "other": [[4, 6, 2]]}
    synonyms = {("dog",): "dog", ("cat",): "cat"}
    reward = CaptionReward(CiderD(references), list, tokenizer, synonyms, {"photo": ["dog"]}, 1.0)
    assert reward("photo", [4, 5, 2]) > 0
    assert reward("photo", [4, 6, 2]) == reward.cider.score("photo", [4, 6, 2]) - 1
    assert reward("other", [4, 5, 2]) == reward.cider.score("other", [4, 5, 2])
