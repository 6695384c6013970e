"""The words of a recogniser in an explanation: heard in the speech of the embedded bundle, drawn, and told."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from im2sp.captioner import Captioner
from im2sp.cli import app
from im2sp.errors import Im2SpError
from im2sp.explain.drawing import draw_tracks
from im2sp.explain.explanation import Explanation, explain
from im2sp.explain.page import draw_page
from im2sp.explain.words import HeardWord, WordListener, can_listen
from im2sp.speech.audio import SAMPLE_RATE

PHOTO = Path(__file__).parents[2] / "examples/china.jpg"
WORDS = (HeardWord("<b>two", 0.0, 0.1), HeardWord("dogs", 0.02, 0.3), HeardWord("run.", 0.1, 99.0))


@pytest.fixture(scope="module")
def listener() -> WordListener:
    return WordListener("en")


@pytest.fixture
def explanation(tiny_bundle: Path) -> Explanation:
    return explain(Captioner.from_pretrained(tiny_bundle, threads=1), PHOTO)


def test_words_are_heard_when_they_are_said(listener: WordListener) -> None:
    waveform = Captioner.from_pretrained(threads=1).caption(PHOTO).waveform
    words = listener.words(waveform)
    assert len(words) >= 4
    assert all(re.fullmatch(r"[A-Za-z'-]+[.,]?", word.text) for word in words)
    assert all(before.start <= after.start for before, after in pairwise(words))
    assert words[-1].stop <= len(waveform) / SAMPLE_RATE + 0.1
    later = listener.words(np.concatenate([np.zeros(SAMPLE_RATE, np.float32), waveform]))
    assert later[1].start == pytest.approx(words[1].start + 1, abs=0.2)


def test_nothing_is_heard_in_nothing(listener: WordListener) -> None:
    assert listener.words(np.zeros(0, np.float32)) == ()
    assert WordListener("und").words(np.zeros(0, np.float32)) == ()


def test_the_page_tells_the_words_and_takes_none_for_markup(explanation: Explanation) -> None:
    assert 'id="heard"' not in draw_page(explanation)
    page = draw_page(replace(explanation, words=WORDS))
    assert "<q>&lt;b&gt;two dogs run.</q>" in page
    assert "<b>" not in page
    rows = re.findall(r"<tr><td>.*?</tr>", page)
    assert all(row.count("<td>") == page.count('<th scope="col">') for row in rows)
    assert rows[0].endswith("<td>&lt;b&gt;two dogs run.</td></tr>")
    assert "hears no words." in draw_page(replace(explanation, words=()))


def test_the_words_have_a_track_of_their_own(explanation: Explanation) -> None:
    heights = [draw_tracks(replace(explanation, words=words)).height for words in (None, (), WORDS)]
    assert heights[0] < heights[1] == heights[2]
    empty, drawn = (np.asarray(draw_tracks(replace(explanation, words=words))) for words in ((), WORDS))
    rows = np.flatnonzero((empty != drawn).any(axis=(1, 2)))
    assert rows.size
    assert rows[-1] - rows[0] < heights[1] - heights[0]


def test_without_the_recogniser(explanation: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    assert not can_listen()
    with pytest.raises(Im2SpError, match=r"faster_whisper is not installed: run pip install 'im2sp\[words\]'"):
        WordListener()
    command = ["explain", str(PHOTO), "-o", str(tmp_path), "--beam", "1", "--threads", "1"]
    assert CliRunner().invoke(app, [*command, "--words"]).exit_code == 1
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    assert 'id="heard"' not in (tmp_path / "china.explained.html").read_text(encoding="utf-8")
