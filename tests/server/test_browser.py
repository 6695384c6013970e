"""The page in a real Chromium with a fake camera: keys, photos, live mode, what is heard, and axe's verdict.

    pip install 'im2sp[browser]' && pytest -m browser

Takes the Chromium named by IM2SP_CHROMIUM, or one on the PATH, or Playwright's own.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from im2sp.captioner import Captioner
from im2sp.decoding.options import DecodingOptions
from im2sp.server.responses import attention_of
from im2sp.server.settings import Settings
from tests.server.conftest import GatedCaptioner, Served, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

EXAMPLES = Path(__file__).parents[2] / "examples"
TOKEN = "0123456789abcdef"
# Keeps what is played and when, by the clock that plays it; the sound itself is left as it is.
LISTEN = """
window.heard = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
  const entry = { when, until: when + this.buffer.duration, samples: [...this.buffer.getChannelData(0)] };
  window.heard.push(entry);
  const stop = this.stop;
  this.stop = (...rest) => {
    entry.until = Math.min(entry.until, this.context.currentTime);
    return stop.apply(this, rest);
  };
  return start.call(this, when);
};
"""


# Keeps each map that is laid over the photo, and the moment.
WATCH = """
window.painted = [];
const put = OffscreenCanvasRenderingContext2D.prototype.putImageData;
OffscreenCanvasRenderingContext2D.prototype.putImageData = function (image, ...rest) {
  window.painted.push([...image.data].filter((_, index) => index % 4 === 0));
  return put.call(this, image, ...rest);
};
"""


def jpeg(red: int, green: int, blue: int, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 160, (6, 8, 3)).repeat(40, axis=0).repeat(40, axis=1)
    file = io.BytesIO()
    picture = np.clip(noise + np.array([red, green, blue]), 0, 255).astype(np.uint8)
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium whose camera sees one scene for three seconds, then another for three, and so on."""
    from playwright.sync_api import sync_playwright

    film = tmp_path_factory.mktemp("camera") / "scenes.mjpeg"
    film.write_bytes(jpeg(90, 0, 0, seed=1) * 90 + jpeg(0, 0, 90, seed=2) * 90)
    arguments = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
        "--no-sandbox",  # tests may run as root, where Chromium has none
    ]
    own = os.environ.get("IM2SP_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=own, args=arguments)
        yield chromium
        chromium.close()


def open_page(browser: Browser, service: Served, **options: object) -> Page:
    """The page in a window of its own; whatever breaks its rules fails the test at the end (see `tidy`)."""
    page = browser.new_context(permissions=["camera"], **options).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(10_000)
    page.add_init_script(LISTEN)
    page.add_init_script(WATCH)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: outside(request.url, service))
    page.goto(f"http://127.0.0.1:{service.port}/")
    return page


troubles: list[str] = []


def outside(url: str, service: Served) -> None:
    if not url.startswith((f"http://127.0.0.1:{service.port}/", "blob:")):
        troubles.append(url)


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    troubles.clear()
    yield
    assert troubles == []


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    page = open_page(browser, served)
    yield page
    page.context.close()


def wait_for_status(page: Page, beginning: str) -> None:
    page.wait_for_function("word => document.getElementById('status').textContent.startsWith(word)", arg=beginning)


def choose(page: Page, photo: bytes) -> None:
    page.set_input_files("#file", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": photo})


def heard(page: Page) -> np.ndarray:
    """All samples played so far, in order."""
    return np.concatenate([np.float32(entry["samples"]) for entry in page.evaluate("heard")])


def greedy(captioner: Captioner, photo: bytes) -> np.ndarray:
    return captioner.caption(photo, DecodingOptions(beam=1, length_penalty=1.0, max_tokens=40)).waveform


def test_what_is_heard_is_what_the_captioner_says(page: Page, captioner: Captioner, photo: bytes) -> None:
    page.click("h1")  # browsers play nothing before the user did something
    choose(page, photo)
    wait_for_status(page, "Done")
    np.testing.assert_allclose(heard(page), greedy(captioner, photo).clip(-1, 1 - 2**-15), atol=2 / 32768)
    entries = page.evaluate("heard")
    gaps = [after["when"] - before["until"] for before, after in pairwise(entries)]
    assert len(entries) > 1
    assert all(-1e-6 < gap < 0.5 for gap in gaps)
    assert page.is_visible("#photo")


def test_keyboard_alone(page: Page) -> None:
    order = []
    for _ in range(6):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
    assert order == ["describe", "stop", "looks", "camera", "live", "choose"]  # nothing can be said again yet
    page.focus("#describe")
    page.keyboard.press("Enter")
    wait_for_status(page, "Done")
    first = len(heard(page))
    page.keyboard.press("Space")  # still on the big button
    page.wait_for_function(f"() => heard.reduce((sum, entry) => sum + entry.samples.length, 0) === {2 * first}")
    page.keyboard.press("Escape")
    wait_for_status(page, "Stopped")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Space")
    page.wait_for_function(f"() => heard.reduce((sum, entry) => sum + entry.samples.length, 0) === {3 * first}")


def test_escape_while_it_is_being_described(browser: Browser, gated: GatedCaptioner) -> None:
    with serving(gated, Settings()) as service:
        page = open_page(browser, service)
        page.click("h1")
        choose(page, jpeg(0, 0, 0))
        assert gated.reached.acquire(timeout=20)
        page.keyboard.press("Escape")
        wait_for_status(page, "Stopped")
        gated.gate.set()
        choose(page, jpeg(0, 0, 0))
        wait_for_status(page, "Done")
        page.context.close()


def test_a_new_photo_ends_the_speech_about_the_old_one(page: Page) -> None:
    page.click("h1")
    choose(page, jpeg(90, 0, 0))
    page.wait_for_function("() => heard.length > 0")
    choose(page, jpeg(0, 0, 90, seed=3))
    wait_for_status(page, "Done")
    assert_one_voice(page)


def assert_one_voice(page: Page) -> None:
    """Nothing was played while something else was."""
    played = [entry for entry in page.evaluate("heard") if entry["until"] > entry["when"]]
    entries = sorted(played, key=lambda entry: entry["when"])
    for before, after in pairwise(entries):
        assert after["when"] >= before["until"] - 1e-6


def test_live_speaks_when_the_scene_changes(page: Page, served: Served) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    page.click("#live")
    page.wait_for_selector("#live[aria-pressed=true]")
    for _ in range(2):
        wait_for_status(page, "Done")
        page.evaluate("document.getElementById('status').textContent = 'waiting'")
    page.click("#live")
    count = len(asked)
    assert page.get_attribute("#live", "aria-pressed") == "false"
    assert count <= 4  # not every frame, of which there were a hundred or more
    assert_one_voice(page)


def test_pasting_and_dropping(page: Page) -> None:
    page.click("h1")
    fire = """([bytes, kind]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], "x", { type: kind }));
      const name = window.how === "drop" ? "drop" : "paste";
      const event = name === "drop"
        ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
      document.body.dispatchEvent(event);
    }"""
    for how in ("paste", "drop"):
        page.evaluate("how => { window.how = how; }", how)
        page.evaluate(fire, [list(jpeg(0, 50, 0)), "image/jpeg"])
        wait_for_status(page, "Done")
        page.evaluate("document.getElementById('status').textContent = ''")
    page.evaluate(fire, [[1, 2, 3], "text/plain"])
    assert page.text_content("#problem") == "That is not a photo."


def reds(maps: list[list[float]]) -> list[list[int]]:
    """Maps of attention as the red of the pixels that are painted for them."""
    return [[round(255 * share / max(shares)) for share in shares] for shares in maps]


def is_in_order(found: list[list[int]], expected: list[list[int]]) -> bool:
    """Whether all that was found is expected, in this order; frames may be skipped, a value may be rounded up."""
    left = iter(expected)
    return all(any(np.abs(np.subtract(one, other)).max() <= 1 for other in left) for one in found)


WHILE_HEATED = """() => {
    const box = (name) => JSON.stringify(document.getElementById(name).getBoundingClientRect());
    if (!document.getElementById("heat").checkVisibility()) return null;
    return {photo: box("photo"), heat: box("heat"), places: document.getElementById("places").textContent};
}"""  # looked up at once, as a short speech is over soon


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_the_heat_moves_with_the_speech(browser: Browser, served: Served, captioner: Captioner, motion: str) -> None:
    photo = jpeg(0, 90, 0, seed=5)
    options = DecodingOptions(beam=1, length_penalty=1.0, max_tokens=40)
    attention = attention_of(captioner.caption(photo, options), captioner)
    page = open_page(browser, served, reduced_motion=motion)
    page.focus("#looks")
    page.keyboard.press("Space")
    assert page.get_attribute("#looks", "aria-pressed") == "true"
    choose(page, photo)
    seen = page.wait_for_function(WHILE_HEATED).json_value()
    assert seen["places"] == ""  # nothing is announced while it speaks
    assert seen["photo"] == seen["heat"]
    assert_accessible(page)
    wait_for_status(page, "Done")
    page.wait_for_selector("#heat", state="hidden")
    assert str(page.text_content("#places")).startswith(f"It looked at: {attention.places[0]}")
    painted = page.evaluate("painted")
    assert painted
    assert is_in_order(painted, reds(attention.maps if motion == "no-preference" else attention.stretches))

    page.evaluate("painted.length = 0")
    page.click("#again")
    page.wait_for_function("() => painted.length > 0")
    page.click("#looks")
    page.wait_for_selector("#heat", state="hidden")
    assert page.text_content("#places") == ""
    page.context.close()


def test_there_is_no_heat_unless_it_is_asked_for(page: Page) -> None:
    page.click("h1")
    choose(page, jpeg(0, 90, 0, seed=5))
    wait_for_status(page, "Done")
    assert page.evaluate("painted") == []
    page.click("#looks")
    assert str(page.text_content("#places")).startswith("It looked at: ")


def test_what_cannot_be_described_is_told(page: Page) -> None:
    choose(page, b"not a picture")
    page.wait_for_function("() => document.getElementById('problem').textContent.includes('is not a picture')")
    assert any("422" in trouble for trouble in troubles)  # the browser's own note
    troubles.clear()


def test_no_camera(browser: Browser, served: Served) -> None:
    page = open_page(browser, served)
    page.context.clear_permissions()
    page.evaluate("""() => {
      navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "NotFoundError"));
    }""")
    with page.expect_file_chooser():
        page.click("#describe")
    assert page.text_content("#problem") == "There is no camera. Choose a photo instead."
    page.context.close()


def test_a_token_is_asked_for(browser: Browser, captioner: Captioner) -> None:
    with serving(captioner, Settings(token=TOKEN)) as service:
        page = open_page(browser, service)
        page.click("h1")
        choose(page, jpeg(0, 0, 0))
        page.wait_for_selector("#token-dialog[open]")
        assert_accessible(page)
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        wait_for_status(page, "Done")
        assert any("401" in trouble for trouble in troubles)
        troubles.clear()
        page.context.close()


def assert_accessible(page: Page) -> None:
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"color_scheme": "dark"},
        {"viewport": {"width": 320, "height": 256}},  # 1280 x 1024 at 400 %
        {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
        {"forced_colors": "active"},
        {"reduced_motion": "reduce"},
    ],
    ids=str,
)
def test_axe_finds_nothing_and_nothing_is_cut_off(browser: Browser, served: Served, options: dict[str, object]) -> None:
    page = open_page(browser, served, **options)
    for press in (None, "#camera", "#live"):
        if press:
            page.click(press)
            page.wait_for_selector(f"{press}[aria-pressed=true]")
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), press
    folder = os.environ.get("IM2SP_SCREENSHOTS")
    if folder:
        name = "-".join(str(value) for value in options.values()) or "plain"
        page.screenshot(path=Path(folder) / f"page-{re.sub(r'[^a-z0-9]+', '-', name.lower())}.png", full_page=True)
    page.context.close()
