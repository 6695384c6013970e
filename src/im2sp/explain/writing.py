"""Photos in, `<name>.explained.html` and `<name>.explained.png` in one folder out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from im2sp.captioner import Captioner
from im2sp.decoding.search import DecodingOptions
from im2sp.errors import ImageError, OutputError, reason
from im2sp.explain.drawing import draw_sheet
from im2sp.explain.explanation import Explanation, explain
from im2sp.explain.page import draw_page
from im2sp.explain.words import WordListener
from im2sp.files import replace_whole
from im2sp.manifest import FileNames

SUFFIX = ".explained.html"  # of its own, so that OUT may be the folder of the photos: photo.png stays what it is


def write_explanations(
    photos: Iterable[Path],
    out: Path,
    captioner: Captioner,
    options: DecodingOptions | None = None,
    listener: WordListener | None = None,
) -> Iterator[Path | ImageError]:
    """Explain each photo; gives the page of each, or why the photo could not be read.

    Two photos of one name get two pages, one with a hash of the photo's path; pages of an earlier run are replaced.
    Raises OutputError when the folder cannot be written.
    """
    names = FileNames()
    for photo in photos:
        try:
            explanation = explain(captioner, photo, options, listener)
        except ImageError as error:
            yield error
            continue
        page = out / names.name(os.path.abspath(photo), SUFFIX)
        _write(explanation, page)
        yield page


def _write(explanation: Explanation, page: Path) -> None:
    text, sheet = draw_page(explanation), draw_sheet(explanation)
    try:
        with replace_whole(page) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
        with replace_whole(page.with_suffix(".png")) as temporary:
            sheet.save(temporary, "PNG")
    except OSError as error:
        raise OutputError(f"{page}: cannot be written ({reason(error)})") from error
