"""Connections that do not behave, shutting down, and the WebSocket: real sockets."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from im2sp.captioner import Captioner
from im2sp.decoding.options import DecodingOptions
from im2sp.server.settings import Settings
from tests.server.conftest import GatedCaptioner, Served, serving

POST = b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\n"


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


# ---- slow, large, broken ----


def test_a_body_that_does_not_come(captioner: Captioner, photo: bytes) -> None:
    with serving(captioner, Settings(body_seconds=0.2)) as service:
        answer = first_answer(service.port, POST + b"Content-Length: 1000\r\n\r\n", *[b"x"] * 20, pause=0.02)
        assert status(answer) == 408
        assert b"did not arrive within 0.2 seconds" in answer
        assert service.client.post("/v1/captions", content=photo).status_code == 200


def test_slow_bodies_do_not_block_other_clients(captioner: Captioner, photo: bytes) -> None:
    with serving(captioner, Settings(queue=3, max_per_client=2)) as service:
        slow = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(2)]
        for connection in slow:
            connection.sendall(POST + b"Content-Length: 1000\r\n\r\nx")
        service.wait_for("im2sp_queue 2.0")
        assert service.client.post("/v1/captions", content=photo).status_code == 429  # this client's share is used up
        for connection in slow:
            connection.close()
        service.wait_for("im2sp_queue 0.0")
        assert service.client.post("/v1/captions", content=photo).status_code == 200


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 3000000", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked"]
)
def test_a_body_that_is_too_large(captioner: Captioner, framing: bytes) -> None:
    with serving(captioner, Settings(body_limit=2**20)) as service:
        piece = bytes(300_000)
        pieces = [piece] * 10 if b"Length" in framing else [b"%x\r\n%b\r\n" % (len(piece), piece)] * 10
        answer = first_answer(service.port, POST + framing + b"\r\n\r\n", *pieces)
        assert status(answer) == 413
        assert b"larger than 1 MiB" in answer


def test_huge_headers(served: Served) -> None:
    many = b"".join(b"X-%d: a\r\n" % number for number in range(10_000))
    for target, headers in (
        (b"/", b"X: " + b"a" * 100_000),
        (b"/", many),
        (b"/", b"A" * 300_000),
        (b"/" * 50_000, b""),
    ):
        head = b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%b\r\n\r\n" % (target, headers)
        for pieces in ([head], [head[: len(head) // 2], head[len(head) // 2 :]]):
            answer = talk(served.port, *pieces)
            assert answer == b"" or status(answer) in (200, 400, 404)  # what fits into one read is read
    assert served.client.get("/healthz").status_code == 200


def test_a_body_that_breaks_off(served: Served, photo: bytes) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="x"\r\n\r\n' + photo[:200]
    head = POST + b"Connection: close\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    whole = talk(served.port, head + b"Content-Length: %d\r\n\r\n" % len(form) + form)
    assert status(whole) == 400
    assert b"cut short" in whole
    for answer in (
        talk(served.port, head + b"Content-Length: 99999\r\n\r\n" + form, half_close=True),
        talk(served.port, head + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n" + form, half_close=True),
        talk(served.port, head + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + form),
    ):
        assert answer == b"" or status(answer) == 400
    served.wait_for("im2sp_queue 0.0")


def test_a_hundred_bad_requests_then_a_good_one(served: Served, photo: bytes) -> None:
    noise = random.Random(0)
    bad = [
        lambda: b"\x16\x03\x01" + noise.randbytes(200),
        lambda: b"GET / HTTP/9.9\r\n\r\n",
        lambda: b"GET / HTTP/1.1\r\n\r\n",
        lambda: POST + b"Content-Length: -1\r\n\r\n",
        lambda: POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        lambda: POST + b"Connection: close\r\nContent-Length: 300\r\n\r\n" + noise.randbytes(300),
        lambda: POST + b"Connection: close\r\nContent-Length: 200\r\n\r\n" + photo[:200],
        lambda: POST + b"Connection: close\r\nContent-Type: multipart/form-data; boundary=" + b"b" * 300 + b"\r\n\r\n",
        lambda: POST + b"Connection: close\r\nContent-Type: \xff\xfe\r\nAuthorization: Bearer \xff\r\n\r\n",
        lambda: b"POST /v1/captions?beam=\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda: b"GET /static/%00/%ff/..%2f..%2fapp.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        lambda: b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ]
    for number in range(108):
        answer = talk(served.port, bad[number % len(bad)](), half_close=True)
        assert answer == b"" or 400 <= status(answer) < 500, (number % len(bad), answer)
    assert served.client.post("/v1/captions", content=photo).status_code == 200


# ---- shutting down ----


def test_requests_are_finished_and_websockets_closed(gated: GatedCaptioner, photo: bytes) -> None:
    before = threading.active_count()
    with serving(gated, Settings()) as service, ThreadPoolExecutor(4) as pool, live(service) as spoken:
        asked = [pool.submit(service.client.post, "/v1/captions", content=photo) for _ in range(3)]
        spoken.send(photo)
        service.wait_for("im2sp_queue 4.0")
        service.end()
        wait_until_closed(service.port)
        with pytest.raises(ConnectionClosed):
            spoken.recv(timeout=20)
        assert spoken.close_code == 1012
        gated.gate.set()
        assert [future.result().status_code for future in asked] == [200, 200, 200]
        service.thread.join(timeout=20)
        assert not service.thread.is_alive()
    assert threading.active_count() == before


def wait_until_closed(port: int) -> None:
    """Until no new client is let in."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return


# ---- the WebSocket ----


def live(service: Served, query: str = "", **options: object) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{service.port}/v1/live{query}", proxy=None, **options)  # type: ignore[arg-type]


def ask(socket: ClientConnection, photo: bytes | str) -> tuple[bytes, dict[str, object]]:
    """(samples, last message)"""
    socket.send(photo)
    samples = b""
    while True:
        message = socket.recv(timeout=20)
        if isinstance(message, bytes):
            samples += message
        elif (found := json.loads(message))["type"] != "start":
            return samples, found


def test_photos_over_a_websocket(served: Served, captioner: Captioner, photo: bytes) -> None:
    whole = captioner.caption(photo, DecodingOptions(beam=1, length_penalty=1.0, max_tokens=40))
    with live(served) as socket:
        for _ in range(2):
            samples, end = ask(socket, photo)
            assert end["type"] == "end"
            assert end["units"] == whole.units.tolist()
            found = np.frombuffer(samples, "<i2") / 32768
            np.testing.assert_allclose(found, whole.waveform.clip(-1, 1 - 2**-15), atol=2 / 32768)


def test_a_websocket_withholds_what_is_unlikely(calibrated_bundle: Path, photo: bytes) -> None:
    captioner = Captioner.from_pretrained(calibrated_bundle, threads=1)
    with serving(captioner, Settings()) as service, live(service, "?min_confidence=1") as socket:
        samples, end = ask(socket, photo)
        assert (end["type"], end["abstained"], end["units"]) == ("end", True, [3, 7, 3, 1])
        assert len(samples) == 2 * 24 * 320


def test_what_is_no_photo_does_not_end_the_websocket(served: Served, photo: bytes) -> None:
    with live(served) as socket:
        for bad, code in ((b"abc", 422), ("abc", 400), (b"", 400)):
            samples, error = ask(socket, bad)
            assert (samples, error["type"], error["status"]) == (b"", "error", code)
        assert ask(socket, photo)[1]["type"] == "end"
    with live(served, "?min_confidence=0.5") as socket:
        assert "not calibrated" in str(ask(socket, photo)[1]["error"])
    with pytest.raises(InvalidStatus), live(served, "?min_confidence=2"):
        pass


def test_a_photo_that_is_too_large_ends_it(captioner: Captioner) -> None:
    with serving(captioner, Settings(body_limit=10_000)) as service, live(service) as socket:
        with pytest.raises(ConnectionClosed):
            ask(socket, bytes(10_001))
        assert socket.close_code == 1009


def test_a_websocket_that_sleeps_is_closed(captioner: Captioner) -> None:
    with serving(captioner, Settings(idle_seconds=0.1)) as service, live(service) as socket:
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
        assert socket.close_code == 1001


def test_only_so_many_websockets(captioner: Captioner) -> None:
    with serving(captioner, Settings(sockets=1)) as service:
        with live(service):
            with pytest.raises(InvalidStatus) as refused, live(service):
                pass
            assert refused.value.response.status_code == 429
        for _ in range(1000):  # the first one's place is free again once its end has been seen
            try:
                with live(service):
                    return
            except InvalidStatus:
                pass
        pytest.fail("the place was not given back")


def test_a_websocket_needs_the_token_and_an_origin_of_its_own(captioner: Captioner) -> None:
    token = "0123456789abcdef"
    with serving(captioner, Settings(token=token)) as service:
        allowed = {"Authorization": f"Bearer {token}"}
        for headers, origin, code in (({}, None, 401), (allowed, "https://evil.example", 403)):
            with pytest.raises(InvalidStatus) as refused, live(service, additional_headers=headers, origin=origin):
                pass
            assert refused.value.response.status_code == code
        with live(service, additional_headers=allowed):
            pass
