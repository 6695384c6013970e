"""Pieces of photos: the same every time, of the size asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from im2sp.errors import ImageError
from im2sp.train.data.photo_pieces import SHARES, write_pieces


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    """Two photos whose pixels tell where they are."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("one", "two"):
        rows, columns = np.mgrid[0:120, 0:200]
        Image.fromarray(np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)).save(
            folder / f"{name}.jpg", quality=95
        )
    return {path.stem: path for path in sorted(folder.glob("*.jpg"))}


def test_pieces_are_smaller_and_differ_from_photo_to_photo(photos: dict[str, Path], tmp_path: Path) -> None:
    pieces = write_pieces(photos, 2, tmp_path / "pieces")
    assert list(pieces) == ["one.crop1", "one.crop2", "two.crop1", "two.crop2"]
    corners = set()
    for path in pieces.values():
        with Image.open(path) as piece:
            width, height = piece.size
            corners.add(piece.getpixel((0, 0)))
        assert SHARES[0] * 200 - 1 <= width <= SHARES[1] * 200 + 1
        assert width / height == pytest.approx(200 / 120, rel=0.03)
    assert len(corners) > 1

    before = {path: path.read_bytes() for path in pieces.values()}
    pieces["one.crop1"].unlink()
    write_pieces(photos, 2, tmp_path / "pieces")
    assert {path: path.read_bytes() for path in pieces.values()} == before


def test_a_photo_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageError):
        write_pieces({"bad": tmp_path / "bad.jpg"}, 1, tmp_path / "pieces")
    assert not list((tmp_path / "pieces").glob("*"))
