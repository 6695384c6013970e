"""Explanations of real photos through a real bundle: pages that need nothing else, and pictures."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from im2sp.captioner import Captioner
from im2sp.cli import app
from im2sp.errors import Im2SpError
from im2sp.explain.page import explain, render_page
from im2sp.explain.plots import Explanation
from im2sp.speech.audio import UNIT_RATE, read_audio
from im2sp.speech.whisper import TimedWord, WordRecogniser

WORDS = (TimedWord("<b>two", 0.0, 0.1), TimedWord("dogs", 0.02, 0.3), TimedWord("run.", 0.1, 99.0))
ODD = "<img src=x onerror=alert(1)>&\"'.png"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def explanation(photo: Path, tiny_bundle: Path) -> Explanation:
    return explain(Captioner.from_pretrained(tiny_bundle, threads=1), photo.rename(photo.with_name(ODD)))


def uris(page: str, kind: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(rf'"data:{kind};base64,([^"]*)"', page)]


def test_a_page_holds_everything(explanation: Explanation) -> None:
    page = render_page(explanation)
    spoken = read_audio(uris(page, "audio/wav")[0])
    assert np.abs(spoken - explanation.caption.waveform).max() < 1e-4
    assert Image.open(io.BytesIO(uris(page, "image/jpeg")[0])).size == explanation.photo.size
    assert Image.open(io.BytesIO(uris(page, "image/png")[0])).width == 1600
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.S)[0])
    assert data["boundaries"][-1] == explanation.caption.durations.sum() / UNIT_RATE
    assert np.allclose(np.array(data["maps"]), explanation.caption.attention, atol=1e-5)


def test_a_page_takes_nothing_from_outside_and_no_name_for_markup(explanation: Explanation) -> None:
    page = render_page(explanation)
    seen: list[tuple[str, dict[str, str | None]]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attributes)))

    Parser().feed(page)
    assert [tag for tag, _ in seen].count("img") == 2
    assert any(attributes.get("alt") == f"The photo {ODD}" for _, attributes in seen)
    sources = [value for _, found in seen for name, value in found.items() if name in ("src", "href", "srcset")]
    assert all(str(source).startswith("data:") for source in sources)
    assert not [name for _, attributes in seen for name in attributes if name.startswith("on") or name == "style"]
    policy = next(str(found["content"]) for _, found in seen if found.get("http-equiv"))
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)[0]
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy


def test_the_command(photo: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "x").mkdir()
    twin, bad = shutil.copy(photo, tmp_path / "x"), tmp_path / "bad.jpg"
    bad.touch()
    options = ["-o", tmp_path, "--model", tiny_bundle, "--beam", 1, "--threads", 1, "--no-words"]
    result = CliRunner().invoke(app, list(map(str, ["explain", photo, bad, twin, *options])))
    assert (result.exit_code, result.stderr) == (1, f"{bad}: is empty (zero bytes)\n")
    pages = [Path(line) for line in result.stdout.splitlines()]
    assert pages[0] == tmp_path / "photo.explained.html"
    assert re.fullmatch(r"photo-[0-9a-f]{8}\.explained\.html", pages[1].name)
    assert all(page.read_text(encoding="utf-8").startswith("<!doctype html>") for page in pages)
    assert Image.open(photo).size == (60, 40)  # the photo itself is untouched
    assert not list(tmp_path.glob(".*.part"))


def test_the_page_tells_the_words_and_takes_none_for_markup(explanation: Explanation) -> None:
    assert 'id="heard"' not in render_page(explanation)
    page = render_page(replace(explanation, words=WORDS))
    assert "<q>&lt;b&gt;two dogs run.</q>" in page
    assert "<b>" not in page
    rows = re.findall(r"<tr><td>.*?</tr>", page)
    assert all(row.count("<td>") == page.count('<th scope="col">') for row in rows)
    assert "<td>&lt;b&gt;two dogs run.</td>" in rows[0]
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)[0])
    assert data["words"] == ["<b>two", "dogs", "run."]  # which the heat follows
    assert len(data["maps"]) == len(data["boundaries"]) - 1 == len(WORDS)
    assert data["boundaries"] == sorted(data["boundaries"])
    assert "hears no words." in render_page(replace(explanation, words=()))


def test_without_the_recogniser(
    photo: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    assert not WordRecogniser.is_installed()
    with pytest.raises(Im2SpError, match=r"faster_whisper is not installed: .*\[words\]"):
        WordRecogniser()
    command = ["explain", str(photo), "-o", str(tmp_path), "--model", str(tiny_bundle), "--threads", "1"]
    assert CliRunner().invoke(app, [*command, "--words"]).exit_code == 1
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    assert 'id="heard"' not in (tmp_path / "photo.explained.html").read_text(encoding="utf-8")
