"""Captions become rows of a unit table, with the frames of each word."""

from __future__ import annotations

from pathlib import Path

from im2sp.train.data.unit_table import iterate_unit_tables
from im2sp.train.lexicon.captions import LexiconSpeaker, TextCaption, write_caption_units
from im2sp.train.lexicon.lexicon import PronunciationLexicon

LEXICON = PronunciationLexicon(
    {(None, word, None): units for word, units in {"^": (0,), "a": (1, 1), "dog": (3, 4, 4), "$": (9,)}.items()}
)


def test_captions_become_unit_rows(tmp_path: Path) -> None:
    speaker = LexiconSpeaker(LEXICON, lambda text: ["^", *text, "$"])
    captions = [TextCaption("x", "a dog ."), TextCaption("y", "a cat"), TextCaption("x", " ")]
    assert write_caption_units(captions, speaker, "joe", {"units": 10}, tmp_path / "train.parquet") == 2
    (row,) = iterate_unit_tables(tmp_path)
    assert (row.image_id, row.text, row.speaker, row.duration_s) == ("x", "a dog .", "joe", row.duration_s)
    assert row.speech_units.tolist() == [0, 1, 1, 3, 4, 4, 9]
    assert [word.tolist() for word in row.words()] == [[0], [1, 1], [3, 4, 4], [9]]
