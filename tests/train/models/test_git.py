"""The GIT decoder: its shortcuts against the plain way."""

from __future__ import annotations

import pytest
import torch

from im2sp.train.models.git import DecoderStep, GitDecoder, GitDecoderConfig

CONFIG = GitDecoderConfig(
    vocabulary_size=37, image_width=24, width=32, layers=3, heads=4, feed_forward=48, max_positions=20
)


@pytest.fixture
def model() -> GitDecoder:
    torch.manual_seed(0)
    model = GitDecoder(CONFIG).eval()
    with torch.no_grad():  # large weights, so that a wrong term cannot hide
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def test_steps_with_a_cache_equal_the_whole(model: GitDecoder) -> None:
    features, tokens = torch.randn(1, 5, 24), torch.randint(3, 37, (2, 8))
    step = DecoderStep(model)
    with torch.inference_mode():
        whole = model(features, tokens, torch.zeros(2, dtype=torch.int64))
        pairs = model.prefix(features)
        keys, values = torch.stack([k for k, _ in pairs]), torch.stack([v for _, v in pairs])
        past_keys = past_values = torch.zeros(3, 2, 4, 0, 8)
        for position in range(8):
            logits, past_keys, past_values, attention = step(
                tokens[:, position], torch.tensor([position]), keys, values, past_keys, past_values
            )
            assert (logits - whole[:, position]).abs().max() < 1e-4
            assert attention.shape == (2, 5)
            assert (attention >= 0).all()
            assert (attention.sum(-1) <= 1 + 1e-5).all()


def test_transfer_takes_all_but_the_vocabulary(model: GitDecoder) -> None:
    torch.manual_seed(2)
    other = GitDecoder(GitDecoderConfig(**(CONFIG.__dict__ | {"vocabulary_size": 50, "max_positions": 30})))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    other.transfer(model)
    after, source = other.state_dict(), model.state_dict()
    assert torch.equal(after["word_embeddings.weight"], before["word_embeddings.weight"])
    assert torch.equal(after["layers.2.key.weight"], source["layers.2.key.weight"])
    assert torch.equal(after["position_embeddings.weight"][:20], source["position_embeddings.weight"])
    assert torch.equal(after["position_embeddings.weight"][20:], before["position_embeddings.weight"][20:])
