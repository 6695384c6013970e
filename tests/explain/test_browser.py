"""The page of an explanation in a real Chromium: keys, heat, less motion, sound from a file, and axe's verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from im2sp.captioner import Captioner
from im2sp.explain.page import explain, render_page
from im2sp.explain.plots import Explanation
from im2sp.speech.audio import UNIT_RATE
from im2sp.speech.whisper import TimedWord
from tests.browser import READ_ALOUD, chromium, violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium("--autoplay-policy=no-user-gesture-required") as browser:
        yield browser


@pytest.fixture(scope="module")
def explanation(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Explanation:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    photo = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(noise).save(photo)
    return explain(Captioner.from_pretrained(tiny_bundle, threads=1), photo)


def opened(browser: Browser, path: Path, **options: Any) -> tuple[Page, list[str]]:
    """The file in a window of its own, and a list of what it complains about."""
    page = browser.new_page(**options)
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(path.as_uri())
    return page, troubles


# Keeps what a screen reader is told by itself while the speech is heard.
TOLD = f"""window.told = [];
for (const region of document.querySelectorAll("{READ_ALOUD}"))
  new MutationObserver(() => {{ if (!speech.paused && region.textContent) told.push(region.textContent); }})
    .observe(region, {{ childList: true, characterData: true, subtree: true }});"""


def until(page: Page, condition: str) -> None:
    """Wait until an expression holds. Playwright's own way is an eval inside the page, which its policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{condition} did not come true within ten seconds")


def test_keys_move_through_the_speech(explanation: Explanation, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render_page(explanation), encoding="utf-8")
    page, troubles = opened(browser, tmp_path / "page.html")
    until(page, "speech.readyState > 0")
    starts = np.unique(explanation.timeline.boundaries) / UNIT_RATE
    for expected in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("speech.currentTime") == pytest.approx(starts[expected], abs=0.001)
    page.keyboard.press("ArrowLeft")
    until(page, "!speech.seeking")
    assert page.evaluate("speech.currentTime") == pytest.approx(starts[2], abs=0.001)
    token = int(np.searchsorted(explanation.timeline.boundaries, starts[2] * UNIT_RATE + 0.5) - 1)
    brightest = page.evaluate(
        "(() => { const d = heat.getContext('2d').getImageData(0, 0, heat.width, heat.height).data;"
        "const sums = []; for (let i = 0; i < d.length; i += 4) sums.push(d[i] + d[i + 1] + d[i + 2]);"
        "return sums.indexOf(Math.max(...sums)); })()"
    )
    assert brightest == explanation.timeline.maps[token].argmax()
    page.evaluate(TOLD)
    page.keyboard.press("Space")
    until(page, "!speech.paused && speech.currentTime > 0.1")
    assert page.inner_text("#play") == "Pause"
    assert page.evaluate("told") == []  # a screen reader would talk over the speech
    page.keyboard.press("Space")
    assert page.evaluate("speech.paused")
    assert violations(page) == ""
    assert troubles == []


def test_less_motion_where_it_is_asked_for(explanation: Explanation, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render_page(explanation), encoding="utf-8")
    page, troubles = opened(browser, tmp_path / "page.html", reduced_motion="reduce")
    page.evaluate(
        "window.places = new Set(); new MutationObserver(() => places.add(head.style.left))"
        ".observe(head, { attributes: true })"
    )
    page.keyboard.press("Space")
    until(page, "speech.ended")
    steps = page.evaluate("places.size")
    assert 1 <= steps <= len(explanation.timeline.segment_maps) + 1  # one for each segment, and the end
    assert troubles == []


def test_on_a_phone_the_heat_follows_the_words(explanation: Explanation, browser: Browser, tmp_path: Path) -> None:
    middle = explanation.frames / UNIT_RATE / 2
    spoken = replace(explanation, words=(TimedWord("two", 0, middle), TimedWord("dogs", middle, 2 * middle)))
    (tmp_path / "page.html").write_text(render_page(spoken), encoding="utf-8")
    page, troubles = opened(browser, tmp_path / "page.html", viewport={"width": 390, "height": 844})
    until(page, "speech.readyState > 0")
    assert page.inner_text("#now") == "two"
    page.keyboard.press("ArrowRight")
    until(page, "!speech.seeking")
    assert page.inner_text("#now") == "dogs"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("strip.scrollLeft") > 0
    assert violations(page) == ""
    assert troubles == []
