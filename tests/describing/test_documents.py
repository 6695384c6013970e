"""Folders and pages: which images are found, and that no path leaves the folder."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from im2sp.describing import documents
from im2sp.describing.documents import DocumentImage, open_document
from im2sp.describing.limits import MAX_PAGE_BYTES, DocumentError
from tests.describing.documents import page, picture


def images(path: Path) -> list[DocumentImage]:
    with open_document(path) as document:
        return list(document.images)


def in_page(folder: Path, *tags: str) -> list[DocumentImage]:
    (folder / "page.html").write_text(page(*tags))
    return images(folder / "page.html")


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "b.png").write_bytes(picture())
    (tmp_path / "a.jpg").touch()
    (tmp_path / "page.html").touch()
    assert [(image.source, image.state) for image in images(tmp_path)] == [
        ("a.jpg", "to speak"),
        (os.path.join("x", "b.png"), "to speak"),
    ]


def test_a_page(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a b.png").write_bytes(picture())
    data = base64.b64encode(picture(1)).decode()
    found = in_page(
        tmp_path,
        '<img src="x/a%20b.png?v=2">',
        '<img src="x/a%20b.png" alt="">',
        '<img src="x/a%20b.png" alt="noise">',
        f'<img src="data:image/png;base64,{data}">',
        '<img src="https://example.org/a.png">',
        '<img src="https://example.org/a.png" alt="far">',
        '<img src="none.png">',
    )
    states = [image.state for image in found]
    assert states == ["to speak", "decorative", "described", "to speak", "remote", "described", "failed"]
    assert found[0].key == tmp_path / "x" / "a b.png"
    assert found[3].read is not None
    assert found[3].read().read() == picture(1)  # type: ignore[union-attr]
    assert found[6].error == "cannot be read (there is no such file)"
    assert {image.page for image in found} == {"page.html"}
    assert found[0].line == 2


@pytest.mark.parametrize(
    "source", ["../secret.png", "x/../../secret.png", "%2e%2e/secret.png", "link.png", "out/secret.png"]
)
def test_nothing_outside_the_folder(source: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    folder = tmp_path / "page"
    (folder / "x").mkdir(parents=True)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "out").symlink_to(tmp_path)
    (image,) = in_page(folder, f'<img src="{source}">')
    assert (image.state, image.key) == ("failed", None)
    assert image.error == "leads out of the folder of the page, which is not followed"


def test_odd_paths_fail_alone(tmp_path: Path) -> None:
    (tmp_path / "circle.png").symlink_to("circle.png")
    found = in_page(
        tmp_path,
        '<img src="circle.png">',
        f'<img src="{"x" * 5000}">',
        '<img src="a%00.png">',
        '<img src="http://[x">',
        "<img>",
    )
    assert [image.state for image in found] == ["failed"] * 5


def test_documents_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").touch()
    with (tmp_path / "big.html").open("wb") as file:
        file.truncate(MAX_PAGE_BYTES + 1)
    os.mkfifo(tmp_path / "pipe.html")
    for name, part in {
        "none.html": "there is no such file",
        "a.txt": "is not a folder, an HTML page",
        "big.html": "larger than 32 MiB",
        "pipe.html": "is not an ordinary file",
    }.items():
        with pytest.raises(DocumentError, match=f"^{tmp_path / name}: .*{part}"):
            images(tmp_path / name)
    monkeypatch.setattr(documents, "MOST_IMAGES", 2)
    with pytest.raises(DocumentError, match="has more than 2 images"):
        in_page(tmp_path, "<img>", "<img>", "<img>")
