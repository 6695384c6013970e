"""The recipe of a lexicon records what it selects, and says it."""

from __future__ import annotations

import json
from pathlib import Path

from im2sp.train.data.synthesis import PiperSynthesizer
from im2sp.train.lexicon.captions import LexiconSpeaker
from im2sp.train.lexicon.lexicon import PronunciationLexicon
from im2sp.train.recipes.lexicon import STAGES, smoke
from im2sp.train.stages import run_stages


def test_a_lexicon_says_the_sentences_that_were_recorded(tmp_path: Path) -> None:
    recipe = smoke(tmp_path)
    run_stages(recipe, STAGES)
    selected = json.loads((recipe.runs / "sentences" / "selected.json").read_text())
    lexicon = PronunciationLexicon.load(recipe.runs / "lexicon" / "lexicon.parquet")
    speaker = LexiconSpeaker(lexicon, PiperSynthesizer(recipe.synthesis).phones)
    assert len(selected) == 3
    assert all(speaker.words(text) for text in selected)
    assert speaker.words("Zebras graze.") is None
