"""Sentences that the text captioner writes about photos."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.text_tokenizer import BOS, EOS, TextTokenizer
from im2sp.train.models.beam_search import Hypothesis, beam_search, beam_searches
from im2sp.train.models.git import DecoderStep, GitDecoder, GitDecoderConfig
from im2sp.train.stages.distil import FIRST_INDEX, Distillation, distil, mean_features, says_twice

WORDS = ["a", "red", "blue", "dog", "cat", "runs", "sits", "on", "grass", "snow"]
OPTIONS = Distillation(sentences=2, sentences_unlabelled=1, beam=3, longest=6)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train([" ".join(WORDS)] * 4)


@pytest.fixture(scope="module")
def model(tokenizer: TextTokenizer) -> GitDecoder:
    torch.manual_seed(7)
    sizes = GitDecoderConfig(tokenizer.size, image_width=8, width=32, layers=2, heads=2, feed_forward=32)
    made = GitDecoder(sizes).eval()
    with torch.no_grad():
        for weight in made.parameters():  # fresh weights find every word as likely as the next, whatever the photo
            if weight.dim() > 1:
                weight.mul_(6)
    return made


def write_features(folder: Path, names: list[str], seed: int, backbone: str = "b") -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for view in ("whole", "flip"):
        np.save(folder / f"{view}.npy", rng.normal(size=(len(names), 4, 8)).astype(np.float16))
    index = {"image_ids": names, "views": ["whole", "flip"], "backbone": {"name": backbone}}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def features(tmp_path: Path) -> ImageFeatures:
    return ImageFeatures(write_features(tmp_path / "f", list("ab"), 0), write_features(tmp_path / "u", list("xyz"), 1))


def test_several_folders_of_features_count_as_one(features: ImageFeatures, tmp_path: Path) -> None:
    assert features.shape == (4, 8)
    alone = ImageFeatures(tmp_path / "u")
    assert (features.get("y", 1) == alone.get("y", 1)).all()
    assert (features.batch(["b", "z"])[1] == alone.get("z")).all()


def test_features_of_different_backbones_do_not_mix(features: ImageFeatures, tmp_path: Path) -> None:
    other = write_features(tmp_path / "o", ["o"], 2, backbone="other")
    with pytest.raises(Im2SpError, match="different backbones"):
        ImageFeatures(tmp_path / "f", other)


def said_greedily(model: GitDecoder, views: torch.Tensor, weights: torch.Tensor, longest: int) -> Hypothesis:
    """Token by token, without a cache: the likeliest by the weighted log probabilities of views [V, 4, 8]."""
    said, total = [BOS], 0.0
    for _ in range(longest):
        last = [model.hidden(view[None], torch.tensor([said]), torch.tensor([0]))[0, -1] for view in views]
        each = torch.stack([model.output(hidden).log_softmax(-1) for hidden in last])
        log_probability = (weights @ each).log_softmax(-1)
        log_probability[[0, 1, 3]] = -torch.inf
        total += float(log_probability.max())
        said.append(int(log_probability.argmax()))
        if said[-1] == EOS:
            break
    return total / (len(said) - 1), [token for token in said[1:] if token != EOS]


def test_beam_of_one_is_greedy(model: GitDecoder) -> None:
    view = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        (score, tokens), *_ = beam_search(DecoderStep(model), view, beam=1, longest=8)
        wanted_score, wanted = said_greedily(model, view, torch.ones(1), 8)
    assert tokens == wanted
    assert score == pytest.approx(wanted_score, abs=1e-4)


def test_views_are_averaged(model: GitDecoder) -> None:
    views = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        once = beam_search(DecoderStep(model), views[:1], 3, 6)
        twice = beam_search(DecoderStep(model), views[[0, 0]], 3, 6)
        both = beam_search(DecoderStep(model), views, 3, 6)
    assert [tokens for _, tokens in once] == [tokens for _, tokens in twice]
    assert [score for score, _ in once] == pytest.approx([score for score, _ in twice], abs=1e-4)
    assert [score for score, _ in both] != pytest.approx([score for score, _ in once], abs=1e-3)
    assert [score for score, _ in both] == sorted((score for score, _ in both), reverse=True)


def test_a_negative_view_is_led_away_from(model: GitDecoder) -> None:
    views = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([1.4, -0.4])
    with torch.inference_mode():
        (score, tokens), *_ = beam_searches(DecoderStep(model), views[None], 1, 6, weights)[0]
        wanted_score, wanted = said_greedily(model, views, weights, 6)
    assert tokens == wanted
    assert score == pytest.approx(wanted_score, abs=1e-4)


def test_guidance_leads_away_from_the_mean_photo(
    model: GitDecoder, tokenizer: TextTokenizer, features: ImageFeatures, tmp_path: Path
) -> None:
    mean = mean_features(features, ["a", "x"])
    photos = torch.from_numpy(features.batch(["a", "x"])).float()
    torch.testing.assert_close(mean, photos.mean(0))
    mean = mean_features(features, ["a"])
    options = replace(OPTIONS, guidance=0.5)
    distil(model, tokenizer, features, {"a": ["A red dog runs."]}, ["x", "y"], options, tmp_path / "guided.jsonl")
    views = torch.stack([torch.from_numpy(features.batch(["y"], view)[0]).float() for view in (0, 1)] + [mean])
    with torch.inference_mode():
        ranked = beam_searches(DecoderStep(model), views[None], 3, 6, torch.tensor([0.75, 0.75, -0.5]))[0]
    wanted = list(dict.fromkeys(tokenizer.decode(tokens) for _, tokens in ranked))
    found = {entry["image_id"]: entry["texts"] for entry in map(json.loads, (tmp_path / "guided.jsonl").open())}
    assert found["y"] == [text for text in wanted if text]


@pytest.mark.parametrize("beam", [1, 3])
def test_several_photos_at_once_are_each_alone(model: GitDecoder, beam: int) -> None:
    views = 3 * torch.randn(6, 2, 4, 8, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        model.output.bias[EOS] += 1.0  # beams end at different lengths
        together = beam_searches(DecoderStep(model), views, beam, 6)
        alone = [beam_search(DecoderStep(model), one, beam, 6) for one in views]
        model.output.bias[EOS] -= 1.0
    if beam > 1:
        assert len({len(tokens) for found in together for _, tokens in found}) > 1
    for some, same in zip(together, alone, strict=True):
        assert [tokens for _, tokens in some] == [tokens for _, tokens in same]
        assert [score for score, _ in some] == pytest.approx([score for score, _ in same], abs=1e-5)


def test_sentences_for_photos_with_and_without_captions(
    model: GitDecoder, tokenizer: TextTokenizer, features: ImageFeatures, tmp_path: Path
) -> None:
    references = {"a": ["A red dog runs."], "b": ["A blue cat sits on snow."]}
    out = tmp_path / "distilled.jsonl"
    captions = distil(model, tokenizer, features, references, ["x", "y"], OPTIONS, out)
    counts = {name: sum(caption.image_id == name for caption in captions) for name in "abxy"}
    assert counts["x"] == counts["y"] == 1
    assert 1 <= counts["a"] <= 2
    assert {caption.split for caption in captions} == {"train"}
    assert min(caption.index for caption in captions) == FIRST_INDEX
    assert len({caption.caption_id for caption in captions}) == len(captions)
    assert distil(model, tokenizer, features, references, ["x", "y"], OPTIONS, out) == captions


def test_what_agrees_most_with_people_comes_first(
    model: GitDecoder, tokenizer: TextTokenizer, features: ImageFeatures, tmp_path: Path
) -> None:
    out = tmp_path / "distilled.jsonl"
    hypotheses = [
        {"image_id": "a", "texts": ["a cat on grass", "a red dog runs", "blue snow"]},
        {"image_id": "b", "texts": ["a cat sits on snow", "a dog"]},
    ]
    out.write_text("".join(json.dumps(entry) + "\n" for entry in hypotheses))
    references = {"a": ["A red dog runs.", "A red dog runs on grass."], "b": ["A blue cat sits on snow."]}
    captions = distil(model, tokenizer, features, references, [], replace(OPTIONS, sentences=1), out)
    assert {caption.image_id: caption.text for caption in captions} == {
        "a": "a red dog runs",
        "b": "a cat sits on snow",
    }


def test_what_says_something_twice_is_left_out_where_there_is_more(
    model: GitDecoder, tokenizer: TextTokenizer, features: ImageFeatures, tmp_path: Path
) -> None:
    out = tmp_path / "distilled.jsonl"
    hypotheses = [
        {"image_id": "a", "texts": ["a red dog and a red dog", "a cat"]},
        {"image_id": "x", "texts": ["a dog on grass on grass", "a dog on grass"]},
        {"image_id": "y", "texts": ["snow snow"]},
    ]
    out.write_text("".join(json.dumps(entry) + "\n" for entry in hypotheses))
    captions = distil(model, tokenizer, features, {"a": ["A red dog."]}, ["x", "y"], OPTIONS, out)
    assert {caption.image_id: caption.text for caption in captions} == {
        "a": "a cat",
        "x": "a dog on grass",
        "y": "snow snow",
    }


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("People sit at a table at a table.", True),
        ("A woman and a woman sit on a bench", True),
        ("a man is playing a guitar and playing a guitar", True),
        ("a large colorful, colorful ball", True),
        ("a man in a red shirt and a boy in a red shirt", False),
        ("two dogs run side by side", False),
        ("a dog", False),
        ("", False),
    ],
)
def test_what_is_said_twice(text: str, twice: bool) -> None:
    assert says_twice(text) is twice


def test_an_interrupted_run_goes_on(
    model: GitDecoder, tokenizer: TextTokenizer, features: ImageFeatures, tmp_path: Path
) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    references = {"a": ["A red dog runs."]}
    all_four = distil(model, tokenizer, features, references, ["x", "y", "z"], OPTIONS, whole)
    part.write_text(whole.read_text().splitlines()[0] + "\n")
    assert distil(model, tokenizer, features, references, ["x", "y", "z"], OPTIONS, part) == all_four
    assert part.read_text() == whole.read_text()
