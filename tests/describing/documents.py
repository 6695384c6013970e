"""Small documents that tests write: pictures, pages, books."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CONTAINER = '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
PACKAGE = """<?xml version="1.0"?>
<package xmlns:opf="http://www.idpf.org/2007/opf"><manifest>
<opf:item id="one" href="one.xhtml" media-type="application/xhtml+xml"/>
<opf:item id="two" href="text/two%20.xhtml" media-type="application/xhtml+xml"/>
<opf:item id="style" href="style.css" media-type="text/css"/>
</manifest><spine><itemref idref="two"/><itemref idref="one"/><itemref idref="two"/>
<itemref idref="style"/></spine></package>
"""


def picture(seed: int = 0) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def page(*images: str) -> str:
    return (
        f"<html><head><title>Noise</title></head><body>\n{''.join(f'<p>{image}</p>' for image in images)}</body></html>"
    )


def write_book(path: Path, files: dict[str, str | bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    """An EPUB with container and package, unless `files` brings its own."""
    whole = {"mimetype": "application/epub+zip", "META-INF/container.xml": CONTAINER, "OPS/book.opf": PACKAGE, **files}
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in whole.items():
            archive.writestr(name, content)
    return path
