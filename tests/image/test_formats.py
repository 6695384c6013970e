"""What a file is says its content; pictures that cannot be read are named, with what to do."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image

from im2sp.errors import ImageError
from im2sp.image.formats import kind_of
from im2sp.image.loading import load_image
from im2sp.installing import install_command

HEADS = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "AVIF": b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf",
    "JPEG XL": b"\xff\x0a\xfa\x7f\x01\x90\x08\0\0\0",
    "SVG": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- a drawing -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "PDF": b"%PDF-1.7\n",
    "camera RAW": b"II*\0\x10\0\0\0CR\2\0",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
    "Photoshop": b"8BPS\0\1",
}


@pytest.mark.parametrize("kind", HEADS)
def test_kinds(kind: str) -> None:
    assert kind_of(HEADS[kind]) == kind
    if kind not in ("AVIF", "HEIC"):
        with pytest.raises(ImageError, match=f"^the given bytes: is an? {kind} file, which im2sp does not read; .*"):
            load_image(HEADS[kind])


def test_other_files_are_no_pictures() -> None:
    for head in (b"", b"BMW makes cars, and bikes.", b"<html><svg></svg></html>", b"RIFF\0\0\0\0WAVEfmt "):
        assert kind_of(head) is None
    assert kind_of(b"II*\0\x08\0\0\0", ".tif") == "TIFF"
    assert kind_of(b"II*\0\x08\0\0\0", ".NEF") == "camera RAW"


def in_a_fresh_process(path: Path, missing: str = "") -> str:
    """Load the picture where no plugin has been registered by another test; `missing`: a module that is not there."""
    script = (
        f"import sys; sys.modules.update({{{missing!r}: None}} if {missing!r} else {{}})\n"
        "import importlib.util; find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name: None if name == {missing!r} else find(name)\n"
        "from im2sp.image.loading import load_image\n"
        "try: print(load_image(sys.argv[1]).size)\nexcept Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_heic_is_an_extra(tmp_path: Path) -> None:
    photo = tmp_path / "photo.heic"
    photo.write_bytes(HEADS["HEIC"])
    assert in_a_fresh_process(photo, "pillow_heif").endswith(
        f"is a HEIC file, which im2sp does not read; {install_command('heic')}, or save it as JPEG first"
    )
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 32))).save(buffer, quality=50)
    photo.write_bytes(buffer.getvalue())
    assert in_a_fresh_process(photo) == "(64, 32)"
    Image.new("RGB", (64, 32)).save(photo, "AVIF")
    assert in_a_fresh_process(photo) == "(64, 32)"


def test_the_preview_in_a_raw_file_is_not_taken_for_the_photo() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (160, 120)).save(buffer, "TIFF", tiffinfo={50_706: b"\1\4\0\0"})
    with pytest.raises(ImageError, match="is a camera RAW file"):
        load_image(buffer.getvalue())
