"""The page in a real Chromium with a fake camera: keys, photos, live mode, what is heard, and axe's verdict."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import replace
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
from im2sp.speech.audio import read_audio
from im2sp.speech.whisper import WordRecogniser
from tests.browser import READ_ALOUD, chromium, violations
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
  window.clock = this.context;
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


# Keeps what a screen reader would be told by itself, and what it would read while a sound is heard: new names of
# buttons, too, as one may have the focus.
TOLD = f"""
window.told = [];
window.collisions = [];
document.addEventListener("DOMContentLoaded", () => {{
  for (const region of document.querySelectorAll("{READ_ALOUD}, button")) {{
    new MutationObserver(() => {{
      const words = region.textContent;
      const now = window.clock?.currentTime ?? 0;
      if (words && region.tagName !== "BUTTON") told.push(words);
      if (words && heard.some((entry) => entry.when <= now && now < entry.until)) collisions.push(words);
    }}).observe(region, {{ childList: true, characterData: true, subtree: true }});
  }}
}});
"""
# Keeps each map that is laid over the photo, and where photo and heat are then.
WATCH = """
window.painted = [];
const box = (name) => JSON.stringify(document.getElementById(name).getBoundingClientRect());
const put = OffscreenCanvasRenderingContext2D.prototype.putImageData;
OffscreenCanvasRenderingContext2D.prototype.putImageData = function (image, ...rest) {
  window.painted.push([...image.data].filter((_, index) => index % 4 === 0));
  queueMicrotask(() => { window.boxes = [box("photo"), box("heat")]; });
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
    film = tmp_path_factory.mktemp("camera") / "scenes.mjpeg"
    film.write_bytes(jpeg(90, 0, 0, seed=1) * 90 + jpeg(0, 0, 90, seed=2) * 90)
    fake = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with chromium(*fake, f"--use-file-for-fake-video-capture={film}") as browser:
        yield browser


def open_page(browser: Browser, service: Served, fragment: str = "", **options: object) -> Page:
    """The page in the only window; whatever breaks its rules fails the test at the end (see `tidy`)."""
    for context in browser.contexts:
        context.close()
    page = browser.new_context(permissions=["camera"], **options).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(30_000)  # a busy machine is no bug
    page.add_init_script(LISTEN)
    page.add_init_script(WATCH)
    page.add_init_script(TOLD)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: outside(request.url, service))
    page.goto(f"http://127.0.0.1:{service.port}/{fragment}")
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
def page(browser: Browser, served: Served) -> Page:
    return open_page(browser, served)


def wait_for_status(page: Page, beginning: str) -> None:
    page.wait_for_function("word => document.getElementById('status').textContent.startsWith(word)", arg=beginning)


def wait_for_words(page: Page, sentence: str) -> None:
    """Until a screen reader has been told so, last."""
    page.wait_for_function("words => told.at(-1) === words", arg=sentence)


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id"))


def choose(page: Page, photo: bytes) -> None:
    page.set_input_files("#file", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": photo})


def describe(page: Page, photo: bytes) -> None:
    """Have a photo described, to the end. Browsers play nothing before the user did something."""
    page.click("h1")
    choose(page, photo)
    wait_for_status(page, "Done")


GREEDY = DecodingOptions(beam=1, length_penalty=1.0, max_tokens=40)
SAMPLES = (
    "() => heard.filter((entry) => entry.samples.length > 1).reduce((sum, entry) => sum + entry.samples.length, 0)"
)


def spoken(page: Page) -> np.ndarray:
    """All samples played so far, in order, but for the silence that wakes the sound."""
    played = [np.float32(entry["samples"]) for entry in page.evaluate("heard")]
    return np.concatenate([samples for samples in played if len(samples) > 1] or [np.zeros(0, np.float32)])


def test_what_is_heard_is_what_the_captioner_says(page: Page, captioner: Captioner, photo: bytes) -> None:
    describe(page, photo)
    np.testing.assert_allclose(
        spoken(page), captioner.caption(photo, GREEDY).waveform.clip(-1, 1 - 2**-15), atol=2 / 32768
    )
    entries = [entry for entry in page.evaluate("heard") if len(entry["samples"]) > 1]
    gaps = [after["when"] - before["until"] for before, after in pairwise(entries)]
    assert len(entries) > 1
    assert all(-1e-6 < gap < 0.5 for gap in gaps)
    assert page.is_visible("#photo")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "description.wav"
    saved = read_audio(download.value.path())
    np.testing.assert_allclose(saved, captioner.caption(photo, GREEDY).waveform, atol=3 / 32768)


def test_keyboard_alone(page: Page) -> None:
    """Open the camera, take the photo, hear it again; the focus stays, and nothing talks over the speech."""
    page.keyboard.press("Tab")
    assert focused(page) == "shutter"
    page.keyboard.press("Space")
    wait_for_words(page, "The camera is on. Press again to take the photo.")
    page.keyboard.press("Enter")
    wait_for_status(page, "Done")
    assert focused(page) == "shutter"
    assert page.evaluate("collisions") == []
    assert page.evaluate("document.getElementById('viewfinder').srcObject") is None  # the camera is off again
    first = len(spoken(page))
    order = [(page.keyboard.press("Tab"), focused(page))[1] for _ in range(7)]
    assert order == ["choose", "stop", "again", "slower", "faster", "save", "looks"]
    page.focus("#again")
    page.keyboard.press("Space")
    page.wait_for_function(SAMPLES + f" === {2 * first}")
    page.keyboard.press("Escape")
    wait_for_words(page, "Stopped.")
    page.keyboard.press("Enter")
    page.wait_for_function(SAMPLES + f" === {3 * first}")
    assert focused(page) == "again"


def test_escape_stops_everything(page: Page) -> None:
    page.click("#more summary")
    page.click("#live")
    page.wait_for_selector("#live[aria-pressed=true]")
    page.wait_for_function(SAMPLES + " > 0")
    page.keyboard.press("Escape")
    wait_for_words(page, "Stopped.")
    samples = len(spoken(page))
    page.wait_for_timeout(1500)
    assert len(spoken(page)) == samples
    assert page.evaluate("told.at(-1)") == "Stopped."
    assert page.get_attribute("#live", "aria-pressed") == "false"
    assert page.evaluate("document.getElementById('viewfinder').srcObject") is None
    assert page.text_content("#shutter") == "Open the camera"


def test_escape_while_the_browser_asks_for_the_camera(page: Page) -> None:
    page.evaluate("""() => {
      const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = async (wanted) => {
        await new Promise((resolve) => { window.allow = resolve; });
        return (window.stream = await ask(wanted));
      };
    }""")
    page.click("#shutter")
    page.keyboard.press("Escape")
    page.evaluate("allow()")
    page.wait_for_function("() => window.stream?.getTracks().every((track) => track.readyState === 'ended')")
    wait_for_words(page, "Stopped.")
    assert not page.is_visible("#viewfinder")


def test_something_is_said_only_when_no_sound_comes(browser: Browser, gated: GatedCaptioner) -> None:
    with serving(gated, Settings()) as service:
        page = open_page(browser, service)
        page.click("h1")
        choose(page, jpeg(0, 0, 0))
        page.wait_for_timeout(500)
        assert page.evaluate("told") == []
        wait_for_words(page, "Still describing.")
        gated.gate.set()
        wait_for_status(page, "Done")
        assert page.evaluate("told") == ["Still describing."]


def test_a_failed_request_keeps_the_last_caption(page: Page) -> None:
    describe(page, jpeg(0, 0, 90))
    first, shown = len(spoken(page)), page.get_attribute("#photo", "src")
    page.focus("#choose")
    choose(page, b"not a picture")
    page.wait_for_function("() => document.getElementById('problem').textContent.startsWith('This file is not a pic')")
    troubles.clear()
    assert focused(page) == "choose"
    assert page.is_visible("#result")
    assert page.is_visible("#photo")
    assert page.get_attribute("#photo", "src") != shown  # made anew, of the same photo
    page.click("#again")
    page.wait_for_function(SAMPLES + f" === {2 * first}")


def test_speed(page: Page, captioner: Captioner, photo: bytes) -> None:
    describe(page, photo)
    for press, rate in (("#faster", 1.25), ("#faster", 1.5), ("#slower", 1.25)):
        page.evaluate("heard.length = 0; document.getElementById('status').textContent = ''")
        page.click(press)
        wait_for_status(page, "Done")
        assert page.text_content("#speed") == f"Speed: {rate} times."
        expected = captioner.caption(photo, replace(GREEDY, rate=rate)).waveform
        assert len(spoken(page)) == len(expected)
    for _ in range(5):
        page.click("#faster", force=True)
    assert page.get_attribute("#faster", "aria-disabled") == "true"
    page.reload()
    describe(page, photo)
    assert page.text_content("#speed") == "Speed: 3 times."


def test_what_a_recogniser_heard(browser: Browser, captioner: Captioner) -> None:
    with serving(captioner, Settings(), Recogniser()) as service:
        page = open_page(browser, service)
        page.click("h1")
        choose(page, jpeg(0, 0, 90))
        page.wait_for_function("() => document.getElementById('heard').textContent")
        assert page.text_content("#heard") == "What a recogniser heard: “a dog”"
        wait_for_status(page, "Done")
        assert page.evaluate("collisions") == []  # it is read by who goes there
        assert violations(page) == ""


class Recogniser(WordRecogniser):
    def __init__(self) -> None:
        pass

    def text(self, waveform: np.ndarray) -> str:
        return "a dog"


def test_a_new_photo_ends_the_speech_about_the_old_one(page: Page) -> None:
    page.click("h1")
    choose(page, jpeg(90, 0, 0))
    page.wait_for_function(SAMPLES + " > 0")
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
    page.click("#more summary")
    page.click("#live")
    page.wait_for_selector("#live[aria-pressed=true]")
    for _ in range(2):
        wait_for_status(page, "Done")
        page.evaluate("document.getElementById('status').textContent = 'waiting'")
    assert page.evaluate("told.concat(collisions)") == []
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
    page.click("#again")
    page.evaluate(fire, [[1, 2, 3], "text/plain"])
    assert page.text_content("#problem") == "That is not a photo."
    assert page.evaluate("collisions") == []


def reds(maps: list[list[float]]) -> list[list[int]]:
    """Maps of attention as the red of the pixels that are painted for them."""
    return [[round(255 * share / max(shares)) for share in shares] for shares in maps]


def is_in_order(found: list[list[int]], expected: list[list[int]]) -> bool:
    """Whether all that was found is expected, in this order; frames may be skipped, a value may be rounded up."""
    left = iter(expected)
    return all(any(np.abs(np.subtract(one, other)).max() <= 1 for other in left) for one in found)


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_the_heat_moves_with_the_speech(browser: Browser, served: Served, captioner: Captioner, motion: str) -> None:
    photo = jpeg(0, 90, 0, seed=5)
    attention = attention_of(captioner.caption(photo, GREEDY), captioner)
    page = open_page(browser, served, reduced_motion=motion)
    describe(page, photo)
    assert page.evaluate("painted") == []  # not unless it is asked for
    page.focus("#looks")
    page.keyboard.press("Space")  # which plays again
    assert page.get_attribute("#looks", "aria-pressed") == "true"
    photo_box, heat_box = page.wait_for_function("() => window.boxes").json_value()
    assert photo_box == heat_box
    page.wait_for_selector("#heat", state="hidden")
    assert page.evaluate("collisions") == []
    assert violations(page) == ""
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


def test_no_camera(browser: Browser, served: Served) -> None:
    page = open_page(browser, served)
    page.context.clear_permissions()
    page.evaluate("""() => {
      navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "NotFoundError"));
    }""")
    with page.expect_file_chooser():
        page.click("#shutter")
    assert page.text_content("#problem") == "There is no camera. Choose a photo instead."


def test_no_camera_over_plain_http(page: Page) -> None:
    page.evaluate("Object.defineProperty(window, 'isSecureContext', { value: false })")
    with page.expect_file_chooser():
        page.click("#shutter")
    assert page.is_visible("#insecure")


def test_a_token_in_the_link(browser: Browser, captioner: Captioner) -> None:
    with serving(captioner, Settings(token=TOKEN)) as service:
        page = open_page(browser, service, f"#token={TOKEN}")
        assert page.url.endswith(f":{service.port}/")
        describe(page, jpeg(0, 0, 0))


def test_a_token_is_asked_for(browser: Browser, captioner: Captioner) -> None:
    with serving(captioner, Settings(token=TOKEN)) as service:
        page = open_page(browser, service)
        page.click("h1")
        choose(page, jpeg(0, 0, 0))
        page.wait_for_selector("#token-dialog[open]")
        assert violations(page) == ""
        page.keyboard.press("Escape")
        page.wait_for_function("() => document.activeElement.id === 'shutter'")
        choose(page, jpeg(0, 0, 0))
        page.wait_for_selector("#token-dialog[open]")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        wait_for_status(page, "Done")
        assert focused(page) == "shutter"
        assert any("401" in trouble for trouble in troubles)
        troubles.clear()


@pytest.mark.parametrize("way", ["#shutter", "#choose", "paste"])
def test_every_way_in_wakes_the_sound(browser: Browser, served: Served, way: str) -> None:
    """The context is made in the handler itself, as iOS demands."""
    page = open_page(browser, served, has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    page.evaluate("""() => {
      window.woken = [];
      const start = AudioContext.prototype.resume;
      const original = window.AudioContext;
      window.AudioContext = function (...rest) { woken.push(event?.type); return new original(...rest); };
    }""")
    if way == "paste":
        page.keyboard.press("Control+v")
    else:
        page.tap(way)
    assert page.evaluate("woken")[0] in ("pointerup", "keydown")
    assert not page.is_visible(".keys")


def test_the_camera_goes_off_when_nobody_watches(page: Page) -> None:
    page.click("#shutter")
    page.wait_for_selector("#viewfinder", state="visible")
    page.evaluate("""() => {
      Object.defineProperty(document, "hidden", { value: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }""")
    assert page.evaluate("document.getElementById('viewfinder').srcObject") is None


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
    page.click("#more summary")
    for press in (None, "#shutter", "#live"):
        if press:
            page.click(press)
            page.wait_for_selector("#viewfinder" if press == "#shutter" else "#live[aria-pressed=true]")
        assert violations(page) == ""
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), press
    page.keyboard.press("Escape")
    choose(page, jpeg(0, 90, 0))
    wait_for_status(page, "Done")
    assert violations(page) == ""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    folder = os.environ.get("IM2SP_SCREENSHOTS")
    if folder:
        name = "-".join(str(value) for value in options.values()) or "plain"
        page.screenshot(path=Path(folder) / f"page-{re.sub(r'[^a-z0-9]+', '-', name.lower())}.png", full_page=True)
