"""The rule for what lacks a description, and where images come from."""

from __future__ import annotations

import pytest

from im2sp.describing.images import PageImage, decode_data, find_images, is_remote, local_path
from im2sp.errors import ImageError


def only(text: str) -> PageImage:
    (image,) = find_images(text)
    return image


@pytest.mark.parametrize(
    ("attributes", "text", "decorative"),
    [
        ("", None, False),
        ('alt="  \n"', None, False),
        ('alt="&nbsp;"', None, False),
        ('alt=""', None, True),
        ("alt", None, True),
        ('role="presentation"', None, True),
        ('role="none"', None, True),
        ('aria-hidden="true"', None, True),
        ('aria-hidden="false"', None, False),
        ('title="a dog"', None, False),
        ('alt=" a dog "', "a dog", False),
        ('alt="a dog" aria-hidden="true"', "a dog", False),
        ('aria-label="a dog"', "a dog", False),
        ('alt="" aria-label="a dog"', "a dog", False),
        ('aria-labelledby="x"', "x", False),
    ],
)
def test_the_rule(attributes: str, text: str | None, decorative: bool) -> None:
    image = only(f'<img src="a.png" {attributes}>')
    assert (image.text, image.decorative) == (text, decorative)


def test_sources_and_bases() -> None:
    assert only('<img srcset="a.png 1x, b.png 2x">').source == "a.png"
    assert only('<base href="x/"><img src=" a.png ">').source == "x/a.png"
    assert is_remote(only('<base href="https://example.org/x/"><img src="a.png">').source)
    assert only('<base href="x/"><img>').source == ""
    long = only(f'<img src="data:image/png;base64,{"A" * 4000}">')
    assert long.shown == "data:image/png;base64,... (4,022 characters)"


def test_remote() -> None:
    assert all(map(is_remote, ("http://x/a", "HTTPS://x", "//x/a.png", "\\\\x\\a", "ftp://x")))
    assert not any(map(is_remote, ("a.png", "/a.png", "data:image/png,x", "file:///x")))


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("", "no source"),
        ("#x", "no source"),
        ("/etc/passwd", "absolute paths"),
        ("%2Fetc/passwd", "absolute paths"),
        ("\\x", "absolute paths"),
        ("file:///etc/passwd", "file: addresses"),
        ("C:\\x.png", "c: addresses"),
        ("a%00.png", "zero byte"),
        ("http://[x", "not an address"),
    ],
)
def test_paths_that_are_refused(source: str, part: str) -> None:
    with pytest.raises(ImageError, match=part):
        local_path(source)


def test_paths() -> None:
    assert local_path("x/a%20b.png?v=1#part") == "x/a b.png"


def test_data() -> None:
    assert decode_data("data:image/png;base64,aGk\n=") == b"hi"
    assert decode_data("data:image/png,%00a") == b"\0a"
    for source in ("data:text/html,x", "data:,x", "data:image/png"):
        with pytest.raises(ImageError, match="not an image"):
            decode_data(source)
    with pytest.raises(ImageError, match="not base64"):
        decode_data("data:image/png;base64,%%%")
    with pytest.raises(ImageError, match="larger than 64 MiB"):
        decode_data("data:image/png;base64," + "A" * (90 * 2**20))
