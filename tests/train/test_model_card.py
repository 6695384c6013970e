"""The model card says what the recipe of a bundle says, and keeps the figures of every measurement."""

from __future__ import annotations

import shutil
from pathlib import Path

from msgspec.structs import replace

from im2sp.bundle import Bundle, find_bundle
from im2sp.train.export import set_quality
from im2sp.train.model_card import model_card, read_figures, with_figures
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


def test_figures_of_several_measurements_stay(tmp_path: Path) -> None:
    card = with_figures(model_card(tiny_config()), {"BLEU-4": 12.34, "recogniser": "Whisper base"})
    card = with_figures(card, {"BLEU-4": 13.0, "word_error_rate_percent": 4.0})
    assert card.count("## Measured") == 1
    assert "Not measured yet" not in card
    assert card.index("| BLEU-4 | 13 |") < card.index("## What it gets wrong")
    (tmp_path / "README.md").write_text(card)
    assert read_figures(tmp_path) == {"BLEU-4": "13", "recogniser": "Whisper base", "word_error_rate_percent": "4"}
    assert with_figures("# mine\n", {"CIDEr": 0.5}).startswith(
        "# mine\n\n## Measured\n\n| | |\n|---|---|\n| CIDEr | 0.5 |"
    )


def test_measuring_changes_the_card_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set_quality(folder, {"CIDEr": 0.5}).config == Bundle.load(tiny_bundle).config
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in after if before.get(name) != after[name]} == {"README.md"}
    assert read_figures(folder)["CIDEr"] == "0.5"


def test_figures_of_the_embedded_bundle_are_read() -> None:
    assert "BLEU-4" in read_figures(find_bundle("default"))
