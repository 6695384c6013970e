"""For mkdocs: links that leave docs/ for the repository become plain text, as the site does not hold what they name."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

_DIALOG = 'data-md-component="search" role="dialog"'
_CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)\s]*)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Keep links between pages, and the words of all others. The changelog is that of the repository."""
    if page.file.src_uri == "changelog.md":
        markdown = _CHANGELOG.read_text(encoding="utf-8")
    here = posixpath.dirname(page.file.src_uri)

    def kept(link: re.Match[str]) -> str:
        leaves = posixpath.normpath(posixpath.join(here, link[2])).startswith("..")
        return link[1] if leaves else link[0]

    return _LINK.sub(kept, markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Name the theme's search dialog for screen readers."""
    return output.replace(_DIALOG, f'{_DIALOG} aria-label="Search"')
