"""The screenshots of the page, in light: after a description, and in the midst of one with "Show where it looks".

    pip install 'im2sp[browser,serve]' && python docs/figures/screenshots.py [PHOTO]

Starts the service with the embedded bundle on a free port and works the page with the keyboard, as a person who cannot
see it would. Takes the Chromium named by IM2SP_CHROMIUM, or one on the PATH, or Playwright's own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs/images"
SIZE = {"width": 620, "height": 900}
PATIENCE = 30  # seconds for the service to start


def main() -> None:
    """Write docs/images/page.jpg and page-looks.jpg."""
    from playwright.sync_api import sync_playwright

    photo = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "examples/china.jpg"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = subprocess.Popen([sys.executable, "-m", "im2sp", "serve", "--port", str(port)])
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz")
        with sync_playwright() as playwright:
            own = os.environ.get("IM2SP_CHROMIUM") or shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
            page.goto(f"http://127.0.0.1:{port}/")
            describe_by_keyboard(page, photo)
            page.wait_for_function("() => document.getElementById('status').textContent.startsWith('Done')")
            page.screenshot(path=IMAGES / "page.jpg", quality=80, full_page=True)
            press("looks", page)
            page.evaluate("document.activeElement.blur()")
            page.keyboard.press("Space")
            page.wait_for_function("() => document.getElementById('heat').checkVisibility()")
            page.wait_for_timeout(900)
            page.screenshot(path=IMAGES / "page-looks.jpg", quality=80, full_page=True)
            browser.close()
    finally:
        service.terminate()
        service.wait()


def describe_by_keyboard(page: Page, photo: Path) -> None:
    """Tab to "Choose a photo", Enter, and the photo is chosen in the dialog that opens."""
    with page.expect_file_chooser() as dialog:
        press("choose", page)
    dialog.value.set_files(photo)


def press(button: str, page: Page) -> None:
    """Tab until the button has the focus, then Enter."""
    for _ in range(20):
        if page.evaluate("document.activeElement.id") == button:
            page.keyboard.press("Enter")
            return
        page.keyboard.press("Tab")
    raise SystemExit(f"the button {button} cannot be reached with the Tab key")


def wait_for(address: str) -> None:
    """Return when the service answers."""
    for _ in range(10 * PATIENCE):
        try:
            urllib.request.urlopen(address)
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"{address} did not answer within {PATIENCE} seconds")


if __name__ == "__main__":
    main()
