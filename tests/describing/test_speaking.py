"""The command: speech for what lacks a description, a report of all, and a run that goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from im2sp.cli import app
from im2sp.describing.report import RULE
from im2sp.journal import CAPTIONS
from im2sp.speech.audio import read_audio
from tests.describing.documents import page, picture, write_book

TWO = "OPS/text/two .xhtml"
ODD = '<img src=x onerror="alert(1)">'


def call(document: Path, out: Path, bundle: Path) -> tuple[int, str, str]:
    words = ["describe", document, "-o", out, "--model", bundle, "--beam", 1, "--threads", 1]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert "Traceback" not in result.stderr
    return result.exit_code, result.stdout, result.stderr


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def web_page(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "bad.png").write_text("no picture")
    text = page(
        '<img src="a.png">',
        '<img src="a.png" alt=" ">',
        '<img src="a.png" alt="">',
        f"<img src='a.png' alt='{ODD}'>",
        '<img src="https://example.org/a.png">',
        '<img src="bad.png">',
        '<img src="bad.png">',
        '<img src="data:image/png;base64,aGk=">',
        '<img src="../a.png">',
    )
    (tmp_path / "page.html").write_text(text)
    return tmp_path / "page.html"


def test_a_page(web_page: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "out"
    code, stdout, stderr = call(web_page, out, tiny_bundle)
    states = "2 spoken, 1 described, 1 decorative, 1 remote, 4 failed"
    assert (code, stdout) == (1, f"{out / 'report.html'}: {states}\n")
    assert stderr.count("\n") == 4
    assert f"page.html: bad.png: {tmp_path / 'bad.png'}: is not a picture that im2sp can read" in stderr
    assert "the data in the page: is not a picture" in stderr
    found = report(out)
    assert found["kind"] == "page"
    assert found["rule"] == RULE
    assert [image["wav"] for image in found["images"][:3]] == ["a.wav", "a.wav", None]
    assert len(read_audio(out / "a.wav")) > 0
    assert len((out / CAPTIONS).read_text().splitlines()) == 1
    shown = (out / "report.html").read_text(encoding="utf-8")
    assert ODD not in shown
    assert "&lt;img src=x onerror=" in shown
    assert "default-src 'none'" in shown
    assert set(re.findall(r'(?:src|href)="([^"]*)"', shown)) == {"a.wav"}
    assert not list(out.glob(".*.part"))


def test_a_book_and_again(tmp_path: Path, tiny_bundle: Path) -> None:
    files: dict[str, str | bytes] = {
        "OPS/one.xhtml": page('<img src="a.png"/>', '<img src="b/a.png"/>'),
        TWO: page('<img src="../a.png" alt="noise"/>'),
        "OPS/a.png": picture(),
        "OPS/b/a.png": picture(1),
    }
    book, out = write_book(tmp_path / "book.epub", files), tmp_path / "out"
    first = call(book, out, tiny_bundle)
    assert first == (0, f"{out / 'report.html'}: 2 spoken, 1 described\n", "")
    wavs = [image["wav"] for image in report(out)["images"] if image["wav"]]
    assert wavs[0] == "a.wav"
    assert re.fullmatch(r"a-[0-9a-f]{8}\.wav", wavs[1])
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("book.epub", "out")] == []
    lines, before = (out / CAPTIONS).read_bytes(), (out / "report.json").read_bytes()
    assert call(book, out, tiny_bundle) == first
    assert (out / CAPTIONS).read_bytes() == lines  # nothing was spoken again
    assert (out / "report.json").read_bytes() == before


def test_a_folder(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture())
    assert call(tmp_path / "in", tmp_path / "out", tiny_bundle)[0] == 0
    assert report(tmp_path / "out")["images"] == [
        {"page": "", "line": 0, "source": "a.png", "state": "spoken", "text": None, "wav": "a.wav", "error": None}
    ]


def test_documents_that_cannot_be_read_leave_nothing(tmp_path: Path, tiny_bundle: Path) -> None:
    code, _, stderr = call(tmp_path / "none.epub", tmp_path / "out", tiny_bundle)
    assert (code, stderr) == (1, f"{tmp_path / 'none.epub'}: cannot be read (there is no such file)\n")
    assert not (tmp_path / "out").exists()


def test_a_page_without_images(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "page.html").write_text("")
    out = tmp_path / "out"
    assert call(tmp_path / "page.html", out, tiny_bundle) == (0, f"{out / 'report.html'}: no images\n", "")
    assert report(out)["images"] == []
