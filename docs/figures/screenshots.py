"""The screenshots of the page and of an explanation, at the widths and in the colours that people use.

    pip install -e '.[browser,serve,words]' && python docs/figures/screenshots.py [PHOTO]

Starts the service with the embedded bundle on a free port and works the page with the keyboard, as a person who cannot
see it would. Takes the Chromium named by IM2SP_CHROMIUM, or one on the PATH, or Playwright's own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs/images"
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
VIEWS: dict[str, dict[str, Any]] = {
    "page-390": PHONE,
    "page-390-dark": PHONE | {"color_scheme": "dark"},
    "page-768": {"viewport": {"width": 768, "height": 1024}},
    "page-1280": {"viewport": {"width": 1280, "height": 800}},
    "page-forced-colours": {"viewport": {"width": 768, "height": 1024}, "forced_colors": "active"},
    "page-400-percent": {"viewport": {"width": 320, "height": 256}},  # 1280 x 1024
}
QUALITY = 55  # of JPEG
PATIENCE = 30  # seconds for the service to start
LISTENING = 180  # seconds for the recogniser, on a busy machine


def main() -> None:
    """Write docs/images/page-*.jpg, page-looks.jpg and explain-390.jpg."""
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
            for name, options in VIEWS.items():
                show_page(browser, f"http://127.0.0.1:{port}/", photo, name, options)
            show_explanation(browser, photo)
            browser.close()
    finally:
        service.terminate()
        service.wait()


def show_page(browser: Browser, address: str, photo: Path, name: str, options: dict[str, Any]) -> None:
    """Describe the photo by keyboard alone and keep what can be seen then; once, also in the midst of the speech."""
    page = browser.new_context(**options).new_page()
    page.goto(address)
    with page.expect_file_chooser() as dialog:
        press("choose", page)
    dialog.value.set_files(photo)
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('Done')")
    page.wait_for_function("() => document.getElementById('heard').textContent", timeout=1000 * LISTENING)
    keep(page, name)
    if name == "page-768":
        press("looks", page)
        page.wait_for_function("() => document.getElementById('heat').checkVisibility()")
        page.wait_for_timeout(900)
        keep(page, "page-looks")
    page.context.close()


def show_explanation(browser: Browser, photo: Path) -> None:
    """Explain the photo on the command line and keep the page as a phone shows it, at the third word."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "im2sp", "explain", photo, "-o", folder], check=True)
        page = browser.new_context(**PHONE).new_page()
        page.goto((Path(folder) / f"{photo.stem}.explained.html").as_uri())
        page.wait_for_timeout(1000)
        for _ in range(2):
            page.keyboard.press("ArrowRight")
        keep(page, "explain-390")
        page.context.close()


def keep(page: Page, name: str) -> None:
    """Write the whole page. A window of its height keeps what depends on touch, which `full_page` switches off."""
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": size["width"], "height": page.evaluate("document.documentElement.scrollHeight")})
    page.screenshot(path=IMAGES / f"{name}.jpg", type="jpeg", quality=QUALITY)
    page.set_viewport_size(size)


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
