"""Texts of the corpora, without those of dev photos."""

from __future__ import annotations

import random
from pathlib import Path

from im2sp.train.data.photo_corpora import read_photo_corpora
from im2sp.train.data.tiny_photo_corpora import write_tiny_photo_corpora
from im2sp.train.lexicon.texts import read_texts


def test_captions_of_dev_photos_are_left_out(tmp_path: Path) -> None:
    write_tiny_photo_corpora(tmp_path, tmp_path / "lists")
    corpora = read_photo_corpora(tmp_path, tmp_path / "lists")
    texts, held_out = read_texts(corpora, random.Random(0))
    assert "I cannot tell what this shows." in texts
    assert [text for text in texts if "a tench" in text.lower()]
    learned = {text for captions in corpora.captions.values() for said in captions.values() for text in said}
    assert held_out
    assert not set(held_out) & texts.keys()
    only_dev = {text for part in corpora.dev.values() for said in part.values() for text in said} - learned
    assert not {text.rstrip(" .") for text in only_dev} & {text.rstrip(".") for text in texts}
