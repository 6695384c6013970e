"""Image units keep what they quantise, and the tagger and the captioner see photos by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.models.git import GitDecoderConfig
from im2sp.train.models.image_units import ImageUnits, ImageUnitsConfig
from im2sp.train.models.tagger import Tagger, TaggerConfig
from im2sp.train.models.unit_captioner import UnitCaptioner

CONFIG = ImageUnitsConfig(cells=4, image_width=12, width=6, levels=3, size=16, class_count=9, classes=2)


@pytest.fixture(scope="module")
def fitted() -> tuple[ImageUnits, torch.Tensor]:
    """A quantiser and the features [64, cells, image_width] that it was fitted on."""
    torch.manual_seed(0)
    features = torch.randn(64, CONFIG.cells, CONFIG.image_width)
    model = ImageUnits(CONFIG)
    model.class_weight.normal_(), model.class_bias.normal_()
    means = features.mean(1)
    model.fit_projection(means, (means @ torch.randn(12, 8) > 0).float())
    left = model.fit(features.flatten(0, 1), features)
    assert left == sorted(left, reverse=True)
    return model, features


def test_units_say_cells_and_classes(fitted: tuple[ImageUnits, torch.Tensor]) -> None:
    model, features = fitted
    units = model(features)
    assert units.shape == (64, CONFIG.units)
    cells, classes = model.embed(units)
    wanted = model.project(features)
    assert (cells - wanted).square().mean() < 0.4 * wanted.square().mean()
    true, probabilities = model.top_classes(features)
    assert torch.equal(classes.topk(1).indices[:, 0], true[:, 0])
    said = classes.exp().gather(1, true)
    assert (said - probabilities).abs().mean() < 0.05


def test_bits_are_counted() -> None:
    assert ImageUnitsConfig().bits == 16 * 7 * 10 + 5 * 10 + 10


def test_too_few_photos_are_refused() -> None:
    with pytest.raises(Im2SpError, match="too few"):
        ImageUnits(CONFIG).fit(torch.randn(8, 12), torch.randn(2, 4, 12))


@pytest.fixture(scope="module")
def tagger(fitted: tuple[ImageUnits, torch.Tensor]) -> Tagger:
    """An untrained tagger: the name of class 3 is token 5, that of all others token 6."""
    model = Tagger(TaggerConfig(words=4, vocabulary_size=10, tags=2, class_words=1), CONFIG)
    model.image_units = fitted[0]
    model.word_tokens.copy_(torch.tensor([7, 8, 9, 4]))
    model.class_tokens.fill_(6)
    model.class_tokens[3] = 5
    return model.eval()


def test_names_of_classes_need_no_training(tagger: Tagger, fitted: tuple[ImageUnits, torch.Tensor]) -> None:
    units = fitted[0](fitted[1])
    units[:, -3], units[:, -2] = 3, 0
    units[:, -1] = fitted[0].probabilities[:, 0].argmax()
    tags, scores = tagger.tags(units)
    assert (tags[:, 0] == 5).all() or fitted[0].probabilities.max() < 0.5
    assert (scores[:, 0] >= scores[:, 1]).all()


def test_captioner_is_saved_and_loaded(tagger: Tagger, fitted: tuple[ImageUnits, torch.Tensor], tmp_path: Path) -> None:
    config = GitDecoderConfig(vocabulary_size=10, width=8, layers=1, heads=2, feed_forward=16, max_positions=8)
    model = UnitCaptioner(config, tagger).eval()
    units, tokens = fitted[0](fitted[1][:3]), torch.tensor([[1, 4, 5], [1, 6, 7], [1, 8, 9]])
    expected = model(units, tokens, torch.arange(3))
    assert model.image_tokens(units).shape == (3, CONFIG.cells + 1 + 2, 8)
    model.save(tmp_path)
    again = UnitCaptioner.load(tmp_path)
    assert again.tag_embeddings is again.word_embeddings
    torch.testing.assert_close(again(units, tokens, torch.arange(3)), expected)
    again.separate_tags(10)
    again.save(tmp_path)
    assert UnitCaptioner.load(tmp_path).tag_embeddings.weight.shape == (10, 8)


def test_a_captioner_of_speech_units_sees_photos_as_the_text_captioner_does(
    tagger: Tagger, fitted: tuple[ImageUnits, torch.Tensor]
) -> None:
    config = GitDecoderConfig(vocabulary_size=10, width=8, layers=1, heads=2, feed_forward=16, max_positions=8)
    text = UnitCaptioner(config, tagger).eval()
    speech = UnitCaptioner(replace(config, vocabulary_size=30, max_positions=20), tagger).eval()
    speech.separate_tags(10)
    speech.transfer(text)
    units = fitted[0](fitted[1][:3])
    torch.testing.assert_close(speech.image_tokens(units), text.image_tokens(units))


def test_the_tagger_stays_frozen(tagger: Tagger) -> None:
    model = UnitCaptioner(GitDecoderConfig(10, width=8, layers=1, heads=2, feed_forward=16), tagger).train()
    assert not model.tagger.training
    assert not any(parameter.requires_grad for parameter in model.tagger.parameters())
