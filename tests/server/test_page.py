"""The page as a file: it loads nothing from elsewhere, obeys its own security policy, and everything has a name."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from im2sp.server.app import STATIC
from im2sp.server.guard import CONTENT_SECURITY_POLICY
from tests.server.conftest import Served

FILES = sorted(path.name for path in STATIC.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]


class Page(HTMLParser):
    """The elements of index.html, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {}  # by id of the innermost element that has one
        self._open: list[str] = []
        self.feed((STATIC / "index.html").read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in ("meta", "link", "img", "input"):  # these have no end
            self._open.append(attributes.get("id", self._open[-1] if self._open else ""))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data.strip()

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page()


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_with_its_type(served: Served, name: str) -> None:
    kinds = {"js": "javascript", "css": "text/css", "html": "text/html", "svg": "image/svg+xml"}
    kinds |= {"png": "image/png", "json": "application/json"}
    response = served.client.get("/" if name == "index.html" else f"/static/{name}")
    assert response.status_code == 200
    assert kinds[name.rpartition(".")[2]] in response.headers["content-type"]
    assert response.content == (STATIC / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_elsewhere(name: str) -> None:
    text = (STATIC / name).read_text(encoding="latin-1").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|(?<![:/])//\w+\.\w|@import|url\(", text)


def test_what_the_page_names_exists(page: Page) -> None:
    named = [a.get("src") or a.get("href") for a in page.all("script", "link", "img") if a.get("src") or a.get("href")]
    named += [word for name in SCRIPTS for word in re.findall(r'from "(.+?)"', (STATIC / name).read_text())]
    assert named
    assert {str(word) for word in named} <= {f"/static/{name}" for name in FILES}


def test_the_page_obeys_its_security_policy(page: Page) -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "'none'" in CONTENT_SECURITY_POLICY.split(";")[0]
    assert all(attributes.get("src") for attributes in page.all("script"))
    assert not page.all("style", "iframe", "object", "embed", "base")
    assert not [name for _, attributes in page.elements for name in attributes if name == "style" or name[:2] == "on"]
    for name in SCRIPTS:
        assert not re.search(
            r"\beval\(|new Function|innerHTML|insertAdjacentHTML|document\.write", (STATIC / name).read_text()
        )


def test_every_control_has_a_name(page: Page) -> None:
    labels = {attributes["for"] for attributes in page.all("label")}
    for attributes in page.all("button"):
        assert page.texts[attributes["id"]]
    for attributes in page.all("input"):
        assert attributes["id"] in labels or "hidden" in attributes
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(attributes.get("aria-label") for attributes in page.all("video"))
