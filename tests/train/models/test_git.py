"""The translator against transformers' GIT, and its shortcuts against the plain way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GitConfig, GitForCausalLM

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


def _from_git(git: GitForCausalLM, config: GitDecoderConfig) -> GitDecoder:
    """Weights of a GIT by name, written out here once more, apart from the code under test."""
    source = git.state_dict()
    names = {
        "image_projection": "git.visual_projection.visual_projection.0",
        "image_norm": "git.visual_projection.visual_projection.1",
        "word_embeddings": "git.embeddings.word_embeddings",
        "position_embeddings": "git.embeddings.position_embeddings",
        "embedding_norm": "git.embeddings.LayerNorm",
        "output": "output",
    }
    for i in range(config.layers):
        own, theirs = f"layers.{i}", f"git.encoder.layer.{i}"
        names |= {
            f"{own}.query": f"{theirs}.attention.self.query",
            f"{own}.key": f"{theirs}.attention.self.key",
            f"{own}.value": f"{theirs}.attention.self.value",
            f"{own}.attention_output": f"{theirs}.attention.output.dense",
            f"{own}.attention_norm": f"{theirs}.attention.output.LayerNorm",
            f"{own}.intermediate": f"{theirs}.intermediate.dense",
            f"{own}.output": f"{theirs}.output.dense",
            f"{own}.output_norm": f"{theirs}.output.LayerNorm",
        }
    model = GitDecoder(config)
    state = {}
    for key in model.state_dict():
        module, _, kind = key.rpartition(".")
        state[key] = source[f"{names[module]}.{kind}"]
    model.load_state_dict(state)
    return model.eval()


def test_logits_equal_those_of_transformers_git() -> None:
    torch.manual_seed(1)
    vision = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = GitConfig(
        vision_config=vision | {"image_size": 32, "patch_size": 16, "layer_norm_eps": 1e-6},
        vocab_size=37,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=20,
        layer_norm_eps=1e-6,
        tie_word_embeddings=True,
    )
    git = GitForCausalLM(settings).eval()
    with torch.no_grad():
        for parameter in git.parameters():
            parameter.normal_(std=0.2)
    git.output.weight = git.git.embeddings.word_embeddings.weight
    pixels, tokens = torch.randn(2, 3, 32, 32), torch.randint(3, 37, (2, 7))
    with torch.inference_mode():
        features = git.git.image_encoder(pixels).last_hidden_state
        expected = git(input_ids=tokens, pixel_values=pixels).logits[:, -tokens.shape[1] :]
        found = _from_git(git, CONFIG)(features, tokens, torch.arange(2))
    assert (expected - found).abs().max() < 1e-4


def test_captions_of_one_photo_share_its_prefix(model: GitDecoder) -> None:
    features, tokens = torch.randn(2, 5, 24), torch.randint(3, 37, (3, 6))
    photo = torch.tensor([1, 0, 1])
    with torch.inference_mode():
        shared = model(features, tokens, photo)
        alone = model(features[photo], tokens, torch.arange(3))
    assert (shared - alone).abs().max() < 1e-4


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


def test_saved_weights_come_back(model: GitDecoder, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = GitDecoder.load(tmp_path)
    assert loaded.output.weight is loaded.word_embeddings.weight
    for (name, value), (_, other) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        np.testing.assert_array_equal(value.numpy(), other.numpy(), err_msg=name)
