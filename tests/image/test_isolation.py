"""What could take long or much memory is decoded in a process that is ended when it does."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from im2sp.errors import ImageError
from im2sp.image import isolation
from im2sp.image.isolation import decode_isolated
from im2sp.image.loading import load_image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def progressive_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there over and over."""
    whole = encoded(Image.new("RGB", (2_000, 2_000), (120, 60, 30)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * count + whole[-2:]


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[isolation._Lane, ...]]:
    """The lanes of this process, without children."""
    monkeypatch.setattr(isolation, "_lanes_of", {})
    yield isolation._lanes()
    isolation.end_decoding()


def test_the_child_says_what_this_process_says(lanes: tuple[isolation._Lane, ...]) -> None:
    load_image(encoded(Image.new("L", (9, 9)), "GIF"))
    child = lanes[1].process
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        data = encoded(noise, kind)
        with Image.open(io.BytesIO(data)) as image:
            assert load_image(data, isolated=True).tobytes() == image.convert("RGB").tobytes()
    assert lanes[1].process is child  # one for all of them
    for refused, words in ((b"no picture", "not a picture"), (b"%PDF-1.7", "document"), (b"GIF89a", "damaged")):
        with pytest.raises(ImageError, match=f"^name \udcff: .*{words}"):
            decode_isolated(refused, "name \udcff")


def test_small_photos_stay_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    away: list[str] = []
    monkeypatch.setattr(isolation, "decode_isolated", lambda data, name, cheap: away.append(name))
    photo = Image.effect_noise((1_000, 800), 50).convert("RGB")
    for data in (encoded(photo, "JPEG"), encoded(photo, "JPEG", progressive=True), encoded(photo, "PNG")):
        assert load_image(data).size == photo.size
    assert not away
    many = encoded(photo, "JPEG")
    for data in (
        progressive_of_scans(100),
        many[:2] + b"\xff\xfe\0\2" * 5_000 + many[2:],
        encoded(Image.new("1", (5_001, 5_000)), "PNG"),
        *(encoded(photo.resize((40, 30)), kind) for kind in ("WEBP", "GIF", "TIFF", "BMP", "AVIF")),
    ):
        load_image(data)
        assert away.pop()


@pytest.mark.skipif(sys.platform == "win32", reason="processes have no limits there")
def test_time_has_a_limit(lanes: tuple[isolation._Lane, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    load_image(encoded(Image.new("RGB", (9, 9)), "GIF"))
    slow = progressive_of_scans(17_000)
    for lane in lanes[1:]:
        monkeypatch.setattr(lane, "seconds", 1)  # of processor time; the test does not wait for 10
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(load_image, slow)
        time.sleep(0.2)
        assert load_image(encoded(Image.new("RGB", (9, 9)), "GIF")).size == (9, 9)  # the others are not held up
        with pytest.raises(ImageError, match="takes more than 10 seconds to decode"):
            ended.result()
    assert load_image(encoded(Image.new("RGB", (9, 9)), "GIF")).size == (9, 9)


@pytest.mark.skipif(sys.platform != "linux", reason="address space has no limit elsewhere")
def test_memory_has_a_limit(lanes: tuple[isolation._Lane, ...]) -> None:
    bomb = b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0e\x00\x00\x00/?\xdf\xcf\x07\x07\x10\x11\xfd\x0fDD\xff\x03"
    with pytest.raises(ImageError, match="takes more memory than a picture may"):
        load_image(bomb)
    assert load_image(encoded(Image.new("1", (8_000, 8_000)), "PNG")).size == (1_143, 1_143)
    assert lanes[1].process is not None
    child = Path("/proc", str(lanes[1].process.pid))
    assert int(child.joinpath("status").read_text().partition("VmHWM:")[2].split()[0]) * 1024 < isolation.MEMORY
    assert int(child.joinpath("oom_score_adj").read_text()) == 1000


def test_a_child_that_breaks_down_is_replaced(lanes: tuple[isolation._Lane, ...]) -> None:
    data = encoded(Image.new("RGB", (9, 9)), "GIF")
    load_image(data)
    for number, words in ((signal.SIGSEGV, "broke down"), (signal.SIGKILL, "")):
        assert lanes[1].process is not None
        os.kill(lanes[1].process.pid, number)
        lanes[1].process.wait()
        if words:
            with pytest.raises(ImageError, match=words):
                load_image(data)
        assert load_image(data).size == (9, 9)


def test_the_end_waits_for_no_picture(lanes: tuple[isolation._Lane, ...]) -> None:
    slow = progressive_of_scans(17_000)
    with ThreadPoolExecutor(3) as pool:
        pictures = [pool.submit(load_image, slow) for _ in range(3)]
        time.sleep(0.5)
        isolation.end_decoding()
        for picture in pictures:
            with pytest.raises(ImageError, match="the program ends"):
                picture.result()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
def test_a_forked_process_has_children_of_its_own(lanes: tuple[isolation._Lane, ...]) -> None:
    data = encoded(Image.new("RGB", (9, 9)), "GIF")
    load_image(data)
    script = (
        "import os, sys; from im2sp.image.loading import load_image; data = sys.stdin.buffer.read();"
        "load_image(data); pid = os.fork(); sizes = {load_image(data).size for _ in range(9)};"
        "pid and sys.exit(os.waitpid(pid, 0)[1])"
    )
    assert subprocess.run([sys.executable, "-c", script], input=data, timeout=60, check=False).returncode == 0


def test_libraries_print_nothing(tmp_path: Path) -> None:
    """libtiff has lines of its own about a damaged file, on the file descriptor of standard error."""
    data = bytearray(encoded(Image.effect_noise((200, 200), 50), "TIFF", compression="tiff_lzw"))
    data[2_000:9_000] = bytes(7_000)
    (tmp_path / "damaged.tif").write_bytes(data)
    script = (
        "import sys; from im2sp.image.loading import load_image\n"
        "try: load_image(sys.argv[1])\nexcept Exception: print('refused')"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "damaged.tif")]
    done = subprocess.run(command, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"refused\n", b"")
