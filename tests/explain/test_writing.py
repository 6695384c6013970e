"""Explanations of real photos through a real bundle: pages that need nothing else, and pictures."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from im2sp.captioner import Captioner
from im2sp.cli import app
from im2sp.explain.explanation import Explanation, explain, place_in_words
from im2sp.explain.page import draw_page
from im2sp.speech.audio import UNIT_RATE, read_audio

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


def test_an_explanation_is_the_caption_laid_out(explanation: Explanation) -> None:
    caption = explanation.caption
    assert explanation.boundaries[-1] == caption.durations.sum()
    assert explanation.maps.shape == (len(caption.tokens), 3, 3)
    assert np.array_equal(explanation.maps.reshape(len(caption.tokens), -1), caption.attention)
    assert explanation.edges[-1] == explanation.boundaries[-1]


def test_a_page_holds_everything(explanation: Explanation) -> None:
    page = draw_page(explanation)
    spoken = read_audio(uris(page, "audio/wav")[0])
    assert np.abs(spoken - explanation.caption.waveform).max() < 1e-4
    assert Image.open(io.BytesIO(uris(page, "image/jpeg")[0])).size == explanation.photo.size
    assert Image.open(io.BytesIO(uris(page, "image/png")[0])).width == 1600
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.S)[0])
    assert data["boundaries"][-1] == explanation.caption.durations.sum() / UNIT_RATE
    assert np.allclose(np.array(data["maps"]), explanation.caption.attention, atol=1e-5)


def test_a_page_takes_nothing_from_outside_and_no_name_for_markup(explanation: Explanation) -> None:
    page = draw_page(explanation)
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


@pytest.mark.parametrize(
    ("cell", "shape", "words"),
    [
        ((0, 0), (4, 4), "top left"),
        ((1, 2), (4, 4), "centre"),
        ((2, 3), (4, 4), "middle right"),
        ((7, 3), (8, 8), "bottom centre"),
        ((0, 0), (1, 1), "centre"),
    ],
)
def test_places_in_words(cell: tuple[int, int], shape: tuple[int, int], words: str) -> None:
    attention = np.full(shape, 0.0, dtype=np.float32)
    attention[cell] = 0.5
    assert place_in_words(attention) == (words, 1.0)


def test_the_command(photo: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "x").mkdir()
    twin, bad = shutil.copy(photo, tmp_path / "x"), tmp_path / "bad.jpg"
    bad.touch()
    words = [
        "explain",
        photo,
        bad,
        twin,
        "-o",
        tmp_path,
        "--model",
        tiny_bundle,
        "--beam",
        1,
        "--threads",
        1,
        "--no-words",
    ]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert (result.exit_code, result.stderr) == (1, f"{bad}: is empty (zero bytes)\n")
    pages = [Path(line) for line in result.stdout.splitlines()]
    assert pages[0] == tmp_path / "photo.explained.html"
    assert re.fullmatch(r"photo-[0-9a-f]{8}\.explained\.html", pages[1].name)
    assert all(page.read_text(encoding="utf-8").startswith("<!doctype html>") for page in pages)
    assert all(Image.open(page.with_suffix(".png")).width == 1632 for page in pages)
    assert Image.open(photo).size == (60, 40)  # the photo itself is untouched
    assert not list(tmp_path.glob(".*.part"))
