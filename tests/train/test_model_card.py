"""The model card says what the recipe of a bundle says, and keeps the figures of every measurement."""

from __future__ import annotations

import shutil
from pathlib import Path

from msgspec.structs import replace

from im2sp.bundle import Bundle
from im2sp.train.export import set_quality
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


def test_figures_of_several_measurements_stay() -> None:
    card = with_figures(model_card(tiny_config()), {"BLEU-4": 12.34, "recogniser": "Whisper base"})
    card = with_figures(card, {"BLEU-4": 13.0, "word_error_rate_percent": 4.0})
    assert card.count("## Measured") == 1
    assert "Not measured yet" not in card
    rows = "| BLEU-4 | 13 |\n| recogniser | Whisper base |\n| word error rate percent | 4 |"
    assert f"## Measured\n\n| | |\n|---|---|\n{rows}\n\n## What it gets wrong" in card
    assert with_figures("# mine\n", {"CIDEr": 0.5}).startswith(
        "# mine\n\n## Measured\n\n| | |\n|---|---|\n| CIDEr | 0.5 |"
    )


def test_measuring_changes_the_card_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set_quality(folder, {"CIDEr": 0.5}).config == Bundle.load(tiny_bundle).config
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in after if before.get(name) != after[name]} == {"README.md"}
    assert "| CIDEr | 0.5 |" in (folder / "README.md").read_text()
