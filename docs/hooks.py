"""For mkdocs: pages that are made while the site is built, and links that leave docs/, which become plain text."""

from __future__ import annotations

import posixpath
import re
import runpy
from pathlib import Path
from typing import Any

_DIALOG = 'data-md-component="search" role="dialog"'
_CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
_CONFIG = Path(__file__).with_name("bundle_fields.py")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)\s]*)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Keep links between pages, and the words of all others. Make the pages of the changelog and of config.json."""
    if page.file.src_uri == "changelog.md":
        markdown = _CHANGELOG.read_text(encoding="utf-8")
    if page.file.src_uri == "bundle-config.md":
        markdown = runpy.run_path(str(_CONFIG))["page"]()
    here = posixpath.dirname(page.file.src_uri)

    def kept(link: re.Match[str]) -> str:
        leaves = posixpath.normpath(posixpath.join(here, link[2])).startswith("..")
        return link[1] if leaves else link[0]

    return _LINK.sub(kept, markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Name the theme's search dialog for screen readers, and make the empty corners of tables plain cells."""
    return output.replace(_DIALOG, f'{_DIALOG} aria-label="Search"').replace("<th></th>", "<td></td>")
