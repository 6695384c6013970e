"""A real Chromium, and axe's verdict on its pages: the one named by IM2SP_CHROMIUM, on the PATH, or Playwright's own.

pip install -e '.[browser,dev]' && pytest -m browser
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

READ_ALOUD = "[role=status], [role=alert], [role=log], [aria-live], output"  # what screen readers read by themselves


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    own = os.environ.get("IM2SP_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:  # tests may run as root, where Chromium has no sandbox
        browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox", *arguments])
        yield browser
        browser.close()


def violations(page: Page) -> str:
    """What axe finds, or nothing."""
    from axe_playwright_python.sync_playwright import Axe

    result = Axe().run(page)
    return result.generate_report() if result.violations_count else ""
