"""Start tags come out of real and of hostile markup, in time that grows with its length."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from im2sp.describing.markup import read_text, start_tags


def names(text: str, *, xml: bool = False) -> list[str]:
    return [tag.name for tag in start_tags(text, xml=xml)]


def test_tags_attributes_and_lines() -> None:
    text = '<p>\n<IMG Src="a&amp;b.png" ALT = \'a "b" > c\' hidden data-x=1 src=second>\n<svg:image a=b/>\n'
    (_, image, svg) = list(start_tags(text))
    assert (image.name, image.line) == ("img", 2)
    assert image.attributes == {"src": "a&b.png", "alt": 'a "b" > c', "hidden": "", "data-x": "1"}
    assert (svg.name, svg.line, svg.attributes) == ("image", 3, {"a": "b/"})


def test_what_is_no_tag() -> None:
    text = "a < b <!-- <img> --> <!doctype html> </p> <? <img2 > <script>'<img>'</script x> <style><b></STYLE> <i>"
    assert names(text) == ["script", "style", "i"]
    assert names("<!--><b>") == ["b"]
    assert names("<![CDATA[<b>]]><i>", xml=True) == ["i"]
    assert names("<script/><b>", xml=True) == ["script", "b"]
    assert names("<script/><b>") == ["script"]


def test_it_agrees_with_the_standard_library() -> None:
    text = (
        '<html><body class="a b" id=x><!-- c --><p>1<br/>2<img alt src="x.png"/><a href=\'?a=1&amp;b=2\'>3</a></p>&lt;'
    )
    found: list[tuple[str, dict[str, str]]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.append((tag, {name: value or "" for name, value in attributes}))

    Parser().feed(text)
    assert [(tag.name, tag.attributes) for tag in start_tags(text)] == found


@pytest.mark.parametrize(
    "piece",
    ["<!--", "<a ", "<", "</a ", "<![CDATA[", "&", "<?", '<a b="', "<a b='", "<script>", "<a =", "<a  \t", "a= "],
)
@pytest.mark.parametrize("xml", [False, True])
def test_what_never_ends_costs_little(piece: str, xml: bool) -> None:
    """A million characters: what took more than proportional time would not come back in this century."""
    text = "<b>" + piece * (1_000_000 // len(piece))
    assert names(text, xml=xml)[0] == "b"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("\ufeffä".encode(), "ä"),
        (b"\xff\xfe" + "ä".encode("utf-16-le"), "ä"),
        (b"\xfe\xff" + "ä".encode("utf-16-be"), "ä"),
        ("ä".encode(), "ä"),
        (b"<meta charset='latin-1'>\xe4", "<meta charset='latin-1'>ä"),
        (b"<?xml encoding='windows-1251'?>\xe4", "<?xml encoding='windows-1251'?>д"),
        (b"<meta charset=punycode>\xc3\xa4", "<meta charset=punycode>ä"),
        (b"<meta charset=no-such>\xff", "<meta charset=no-such>\ufffd"),
    ],
)
def test_encodings(data: bytes, text: str) -> None:
    assert read_text(data) == text
