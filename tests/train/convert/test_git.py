"""A published GIT against transformers: pixels, features, logits. test_im2sp.py has its graphs and decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from transformers import CLIPImageProcessorPil, GitConfig, GitForCausalLM

from im2sp.image.encoder import pixels_of
from im2sp.train.convert.git import (
    GIT_LARGE,
    Git,
    GitVision,
    PublishedGit,
    PublishedVision,
    convert_git,
    read_processor,
)
from im2sp.train.models.git import GitDecoder
from tests.train.convert.published_files import run_convert
from tests.train.convert.published_git import IMAGE_TOKENS, POSITIONS, SIDE, random_git


@pytest.fixture(scope="module")
def published() -> GitForCausalLM:
    return random_git(1)


@pytest.fixture(scope="module")
def converted(published: GitForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Git:
    folder = tmp_path_factory.mktemp("git")
    published.save_pretrained(folder)
    return convert_git(folder)


def photos(count: int) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", [(300, 300), (640, 427), (333, 500), (225, 224), (61, 1900), (100, 80)])
@pytest.mark.parametrize(
    "changes", [{}, {"size": {"shortest_edge": 256}, "resample": 2, "image_mean": [0.5, 0.4, 0.3]}]
)
def test_photos_become_the_pixels_of_its_processor(
    size: tuple[int, int], changes: dict[str, Any], tmp_path: Path
) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(256, size=(*size[::-1], 3), dtype=np.uint8))
    processor = CLIPImageProcessorPil(**changes)
    processor.save_pretrained(tmp_path)
    image = read_processor(tmp_path).image_config(PublishedVision())
    theirs = processor(photo, return_tensors="np")["pixel_values"][0]
    assert theirs.shape == (3, 224, 224)
    assert np.abs(pixels_of(photo, image) - theirs).max() < 1e-5
    squashed = replace(image, shorter_side=None)
    assert size == (300, 300) or np.abs(pixels_of(photo, squashed) - theirs).mean() > 0.1


def test_features_and_logits_equal_transformers(published: GitForCausalLM, converted: Git) -> None:
    pixels = photos(2)
    tokens = torch.randint(1, 203, (2, 9), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        features = published.git.image_encoder(pixels).last_hidden_state
        logits = published(input_ids=tokens, pixel_values=pixels).logits[:, IMAGE_TOKENS:]
        found = converted.vision(pixels)
        assert (found - features).abs().max() < 1e-5
        assert (converted.decoder(found, tokens, torch.arange(2)) - logits).abs().max() < 5e-5
    assert logits.std() > 1


def test_older_files_carry_positions_and_a_tied_head_may_be_left_out(tmp_path: Path) -> None:
    tied = random_git(2, tied=True)
    tied.save_pretrained(tmp_path)
    state = tied.state_dict() | {
        "git.embeddings.position_ids": torch.arange(POSITIONS)[None],
        "git.image_encoder.vision_model.embeddings.position_ids": torch.arange(IMAGE_TOKENS)[None],
    }
    del state["output.weight"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    decoder = convert_git(tmp_path).decoder
    assert decoder.output.weight is decoder.word_embeddings.weight
    assert torch.equal(decoder.output.weight, tied.output.weight)


def test_the_command_writes_what_training_starts_from(
    published: GitForCausalLM, converted: Git, tmp_path: Path
) -> None:
    published.save_pretrained(tmp_path / "published")
    result = run_convert("git", tmp_path / "published", "-o", tmp_path / "git")
    assert f"{IMAGE_TOKENS} image tokens, 203 tokens" in result.output
    loaded = GitDecoder.load(tmp_path / "git" / "decoder")
    assert loaded.config == converted.decoder.config
    assert torch.equal(loaded.output.weight, converted.decoder.output.weight)
    assert not torch.equal(loaded.output.weight, loaded.word_embeddings.weight)


@pytest.mark.parametrize(("config", "tokens", "width"), [(PublishedGit(), 197, 768), (GIT_LARGE, 257, 1024)])
def test_published_sizes(config: PublishedGit, tokens: int, width: int) -> None:
    """Base and large, at full size without memory: the shapes are those of transformers' own GIT."""
    with torch.device("meta"):
        vision = GitVision(config.vision_config).state_dict()
        git = GitForCausalLM(GitConfig(**config.model_dump(exclude={"model_type"})))
    theirs = {name: tensor.shape for name, tensor in git.state_dict().items()}
    assert {f"git.image_{name.replace('model.', 'encoder.', 1)}" for name in vision} <= set(theirs)
    assert theirs["git.image_encoder.vision_model.embeddings.position_embedding.weight"] == (tokens, width)
    assert config.vision_config.image_tokens == tokens
