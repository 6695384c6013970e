"""The model card says what the recipe of a bundle says, and its figures."""

from __future__ import annotations

from msgspec.structs import replace

from im2sp.train.model_card import model_card, with_figures
from tests.tiny_bundle import tiny_config

OWN = {"data": "own recordings, train part", "photos": 120, "hours of speech": 0.51234}


def test_a_bundle_of_own_recordings_says_nothing_of_flickr8k() -> None:
    config = replace(tiny_config(), description="Describes my garden.", license="mine alone", training=OWN)
    card = model_card(config, ["It mixes up roses and tulips."])
    assert card.startswith(f"# {config.name} {config.version}\n\nDescribes my garden. An im2sp bundle")
    for line in ("| hours of speech | 0.5123 |", "Mine alone.", "- It mixes up roses and tulips.", "Not measured yet."):
        assert line in card
    for foreign in ("Flickr8k", "Piper", "EfficientNet", "Apache"):
        assert foreign not in card


def test_figures_take_their_place() -> None:
    card = with_figures(with_figures(model_card(tiny_config()), {"BLEU-4": 12.34}), {"word_error_rate": 4.0})
    assert "## Measured\n\n| | |\n|---|---|\n| word error rate | 4 |\n\n## What it gets wrong" in card
    assert with_figures("# mine\n", {"CIDEr": 0.5}) == "# mine\n\n## Measured\n\n| | |\n|---|---|\n| CIDEr | 0.5 |\n"
