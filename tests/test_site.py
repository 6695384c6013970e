"""The documentation site and its figure: built without a network, and nothing in them comes from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browser import chromium, violations

ROOT = Path(__file__).parents[1]
NOWHERE = "http://127.0.0.1:9"  # a proxy that nobody runs: a build that asks another host fails
LOADING = {"src", "srcset", "data", "poster", "background"}  # attributes that make a browser load something
SVG = "{http://www.w3.org/2000/svg}"


def run(*words: str) -> None:
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), NOWHERE)
    environment = os.environ | proxies | {"NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder))
    return folder


class Loaded(HTMLParser):
    """Addresses that a browser loads for a page, by itself."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.policy = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.addresses += [value for name, value in values.items() if name in LOADING]
        if tag == "link":
            self.addresses.append(values.get("href", ""))
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]


def is_outside(address: str) -> bool:
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= 12
    for page in pages:
        loaded = Loaded(page)
        assert loaded.addresses
        assert not [address for address in loaded.addresses if is_outside(address)], page
        assert loaded.policy.startswith("default-src 'self';"), page
        assert "http" not in loaded.policy


def test_styles_load_nothing_from_elsewhere(site: Path) -> None:
    styles = sorted(site.rglob("*.css"))
    assert styles
    for style in styles:
        text = style.read_text(encoding="utf-8")
        named = re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)
        assert not [address for address in named if is_outside(address)], style


def test_the_reference_has_what_people_import(site: Path) -> None:
    reference = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in (
        "captioner.Captioner", "captioner.Captioner.caption", "captioner.Captioner.stream", "captioner.SpeechCaption",
        "captioner.SpeechChunk", "decoding.options.DecodingOptions", "errors.ImageError",
    ):  # fmt: skip
        assert f'id="im2sp.{name}"' in reference, name


def test_the_page_of_the_config_has_every_field(site: Path) -> None:
    page = (site / "bundle-config" / "index.html").read_text(encoding="utf-8")
    for words in (
        "<code>duration_tolerance</code> (float, &gt;0.5, \u2264100): frames",
        "spoken before it",
        "confidence.pca",
    ):
        assert words in page, words


def test_links_out_of_the_documents_become_words(site: Path) -> None:
    page = (site / "compatibility" / "index.html").read_text(encoding="utf-8")
    assert "recipes/paper lists what differs" in page
    assert 'href="../recipes' not in page


@pytest.mark.browser
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(site: Path, colours: str) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, chromium() as browser:
        threading.Thread(target=server.serve_forever).start()
        page, found = browser.new_page(color_scheme=colours), {}  # type: ignore[arg-type]
        for path in sorted(site.rglob("*.html")):
            page.goto(f"http://127.0.0.1:{server.server_port}/{path.relative_to(site).as_posix()}")
            found[path.parent.name] = violations(page)
        server.shutdown()
    assert {name: report for name, report in found.items() if report} == {}


def test_figure_shows_a_photo_its_units_and_their_sound(tiny_bundle: Path, tmp_path: Path) -> None:
    run("docs/figures/photo_to_speech.py", "--model", str(tiny_bundle), "--out", str(tmp_path / "figure.svg"))
    words = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    for label in ("A photo", "9 image tokens", "speech units", "The waveform", "seconds"):
        assert label in words
