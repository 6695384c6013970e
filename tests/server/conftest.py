"""A real service on a free port, in a thread of this process, speaking with the tiny bundle."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from im2sp.arrays import FloatArray
from im2sp.captioner import Captioner
from im2sp.decoding.decoder import Prefix
from im2sp.server.command import create_server, listen
from im2sp.server.settings import Settings
from im2sp.speech.whisper import WordRecogniser

POST = b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\n"
JPEG = {"Content-Type": "image/jpeg"}
JSON = {"Accept": "application/json"}


@dataclass
class Served:
    """A running service."""

    port: int
    client: httpx.Client
    end: Callable[[], None]  # begin to shut down, as SIGTERM would; `serving` waits for the rest
    thread: threading.Thread

    def wait_for(self, metric: str) -> None:
        """Until /metrics has this line."""
        give_up = time.monotonic() + 30
        while metric not in self.client.get("/metrics").text:
            assert time.monotonic() < give_up, f"never came to {metric}"


@contextmanager
def serving(captioner: Captioner, settings: Settings, recogniser: WordRecogniser | None = None) -> Iterator[Served]:
    """Run a service for the block, then shut it down in full."""
    listener = listen(settings.host, 0)
    port = listener.getsockname()[1]
    server = create_server(captioner, settings, recogniser)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})

    def end() -> None:
        server.should_exit = True

    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            yield Served(port, client, end, thread)
    finally:
        end()
        thread.join()


class GatedCaptioner(Captioner):
    """Waits at a gate before it encodes a photo, so that a test can say how long speaking takes."""

    def __init__(self, captioner: Captioner) -> None:
        super().__init__(captioner.bundle, threads=1)
        self.gate = threading.Event()
        self.reached = threading.Semaphore(0)
        encode = self.image_encoder.encode_pixels

        def encode_later(pixels: FloatArray) -> list[Prefix]:
            self.reached.release()
            assert self.gate.wait(timeout=30)
            return encode(pixels)

        self.image_encoder.encode_pixels = encode_later  # type: ignore[method-assign]


def talk(port: int, *pieces: bytes, pause: float = 0.0, half_close: bool = False) -> bytes:
    """Send pieces, then read until the service closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        answer = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while received := connection.recv(65536):
                answer += received
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer


def first_answer(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send pieces, then read one answer in JSON."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.fixture(scope="session")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.from_pretrained(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def served(captioner: Captioner) -> Iterator[Served]:
    """With the defaults, but for the limit that one client who is all tests would meet."""
    with serving(captioner, Settings(max_per_client=16)) as service:
        yield service


@pytest.fixture
def gated(captioner: Captioner) -> Iterator[GatedCaptioner]:
    slow = GatedCaptioner(captioner)
    yield slow
    slow.gate.set()


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(7).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()
