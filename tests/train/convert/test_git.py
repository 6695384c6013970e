"""A published GIT against transformers: features, logits, graphs, and the runtime's decoding token by token."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from transformers import CLIPImageProcessorPil, GitConfig, GitForCausalLM

from im2sp.bundle import DecoderConfig
from im2sp.decoding.decoder import DecoderStep, Prefix
from im2sp.decoding.options import DecodingOptions
from im2sp.decoding.search import DecodingTask
from im2sp.decoding.vocabulary import SpecialTokens
from im2sp.image.encoder import pixels_of
from im2sp.onnx import Graph, Signature
from im2sp.train.convert.git import (
    GIT_LARGE,
    Git,
    GitVision,
    PublishedGit,
    PublishedVision,
    convert_git,
    read_processor,
)
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.export import ImageModules, decoder_config, export_decoder, export_image
from im2sp.train.models.git import GitDecoder
from tests.train.convert.published_files import run_convert
from tests.train.convert.published_git import IMAGE_TOKENS, POSITIONS, SIDE, generated, random_git

BERT = SpecialTokens(pad=0, bos=101, eos=102)


@pytest.fixture(scope="module")
def published() -> GitForCausalLM:
    return random_git(1)


@pytest.fixture(scope="module")
def converted(published: GitForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Git:
    folder = tmp_path_factory.mktemp("git")
    published.save_pretrained(folder)
    return convert_git(folder)


@pytest.fixture(scope="module")
def graphs(converted: Git, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    modules = ImageModules(converted.image, converted.vision)
    export_image(modules, converted.decoder, folder, "fp32")
    export_decoder(converted.decoder, IMAGE_TOKENS, folder, "fp32")
    return folder


def photos(count: int) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def open_graph(folder: Path, name: str, *outputs: str) -> Graph:
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    shapes = {output.name: SimpleNamespace(dims=tuple(output.shape)) for output in session.get_outputs()}
    return Graph(name, Signature({}, {output: shapes[output] for output in outputs}), session)  # type: ignore[arg-type]


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


@pytest.mark.parametrize(
    "wrong", [{"crop_size": 200}, {"size": {"shortest_edge": 200}}, {"do_center_crop": False}, {"resample": 9}]
)
def test_processors_that_make_other_pictures_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 224} | wrong))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        read_processor(tmp_path).image_config(PublishedVision())


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


@pytest.mark.parametrize("beam", [1, 3, 5])
def test_runtime_decoding_equals_generate_token_by_token(
    published: GitForCausalLM, converted: Git, graphs: Path, beam: int
) -> None:
    encoder = open_graph(graphs, "image_encoder", "prefix_keys", "prefix_values")
    decoder = open_graph(graphs, "decoder", "logits", "keys", "values", "attention")
    sizes: DecoderConfig = decoder_config(converted.decoder.config)
    # Random weights like to stop at once; four tokens at least tell sentences apart.
    options = DecodingOptions(beam=beam, min_tokens=4, max_tokens=POSITIONS - 1, max_repeats=0)
    different = set()
    for pixels in photos(12):
        expected = generated(published, pixels, options, [BERT.pad, BERT.bos])
        keys, values = encoder.run(pixels=pixels[None].numpy())
        step = DecoderStep(decoder, sizes, Prefix(keys, values))
        found = DecodingTask(step, BERT, options).run(sizes.max_tokens)
        ending = [BERT.eos] if found.ending == "eos" else []
        assert ending or beam == 1
        assert [BERT.bos, *found.tokens.tolist(), *ending] == expected
        different.add(tuple(expected))
    assert len(different) >= 10


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


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_type": "blip"}, "model_type"),
        ({"num_image_with_embedding": 6}, "num_image_with_embedding"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_hidden_layers": 4}, "lacks layers.3"),
        ({"vocab_size": 300}, r"has word_embeddings\.weight of shape|has output"),
        ({"tie_word_embeddings": True}, "not tied"),
        ({"num_attention_heads": 5}, "divided by the heads"),
        ({"vision_config": {"image_size": 10**9}}, "vision_config.image_size"),
    ],
)
def test_configs_that_do_not_fit_are_refused(
    published: GitForCausalLM, change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    published.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=why):
        convert_git(tmp_path)
