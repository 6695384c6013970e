"""Photos over a WebSocket, clients who leave, and shutting down: real sockets."""

from __future__ import annotations

import gc
import json
import socket
import struct
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from im2sp.captioner import Captioner
from im2sp.decoding.options import DecodingOptions
from im2sp.server import protocols
from im2sp.server.settings import Settings
from tests.server.conftest import POST, GatedCaptioner, Served, first_answer, serving, status, talk

OPEN, CONTINUED, END = 2, 0, 128  # of WebSocket frames
UPGRADE = (
    b"GET /v1/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


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


def frame(data: bytes, kind: int, length: int | None = None) -> bytes:
    """A frame with a mask of zeros; `length` where it is not all there."""
    size = len(data) if length is None else length
    head = bytes([kind, 128 | size]) if size < 126 else bytes([kind, 255]) + size.to_bytes(8, "big")
    return head + bytes(4) + data


def raw_socket(port: int, *more: bytes) -> socket.socket:
    """A WebSocket as a plain socket."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(UPGRADE + b"\r\n" + b"".join(more))
    while b"\r\n\r\n" not in connection.recv(4096):
        pass
    return connection


def test_photos_over_a_websocket(served: Served, captioner: Captioner, photo: bytes) -> None:
    whole = captioner.caption(photo, DecodingOptions(beam=1, length_penalty=1.0, max_tokens=40))
    with live(served) as socket:
        for _ in range(2):
            samples, end = ask(socket, photo)
            assert end["type"] == "end"
            assert end["units"] == whole.units.tolist()
            found = np.frombuffer(samples, "<i2") / 32768
            np.testing.assert_allclose(found, whole.waveform.clip(-1, 1 - 2**-15), atol=2 / 32768)


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


@pytest.mark.parametrize("limit", ["sockets", "sockets_per_client"])
def test_only_so_many_websockets(captioner: Captioner, limit: str) -> None:
    with serving(captioner, Settings(**{limit: 1})) as service:
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


def test_an_odd_origin_of_a_websocket_is_refused_like_any_other(served: Served) -> None:
    answer = talk(served.port, UPGRADE + b"Origin: http://[\r\n\r\n")
    assert status(answer) == 403
    assert b"x-content-type-options: nosniff" in answer.lower()


def test_photos_in_many_pieces_are_whole(served: Served, captioner: Captioner, photo: bytes) -> None:
    units = captioner.caption(photo, DecodingOptions(beam=1, length_penalty=1.0, max_tokens=40)).units.tolist()
    chunks = b"".join(b"1\r\n%b\r\n" % bytes([byte]) for byte in photo) + b"0\r\n\r\n"
    head = b"POST /v1/captions?beam=1 HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
    answer = first_answer(served.port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["units"] == units
    with live(served) as spoken:
        spoken.send(bytes([byte]) for byte in photo)
        while not (isinstance(message := spoken.recv(timeout=20), str) and '"end"' in message):
            pass
        assert json.loads(message)["units"] == units


def test_parsing_gives_the_event_loop_back(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read of chunks of one byte takes a third of a second to parse."""
    slowest = 0.0
    parse = protocols._Sliced._parse

    def timed(self: protocols._Sliced) -> None:
        nonlocal slowest
        started = time.thread_time()
        parse(self)
        slowest = max(slowest, time.thread_time() - started)

    monkeypatch.setattr(protocols._Sliced, "_parse", timed)
    chunks = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n"
    with serving(captioner, Settings()) as service:
        assert status(first_answer(service.port, chunks)) == 422
        with raw_socket(service.port) as live_socket:
            live_socket.sendall(frame(b"x", OPEN) + frame(b"x", CONTINUED) * 40_000 + frame(b"x", CONTINUED | END))
            while b"not a picture" not in live_socket.recv(65536):
                pass
    assert 0 < slowest < 0.15


def test_a_websocket_withholds_what_is_unlikely(calibrated_bundle: Path, photo: bytes) -> None:
    captioner = Captioner.from_pretrained(calibrated_bundle, threads=1)
    with serving(captioner, Settings()) as service, live(service, "?min_confidence=1") as socket:
        samples, end = ask(socket, photo)
        assert (end["type"], end["abstained"], end["units"]) == ("end", True, [3, 7, 3, 1])
        assert len(samples) == 2 * 24 * 320


def test_buffers_are_freed_when_a_client_leaves(captioner: Captioner) -> None:
    piece = bytes(8 * 2**20)
    with serving(captioner, Settings()) as service:
        gc.disable()  # so that nothing is left to chance
        tracemalloc.start()
        try:
            sizes = []
            for _ in range(4):
                half_frames = [raw_socket(service.port) for _ in range(2)]
                half_messages = [raw_socket(service.port) for _ in range(2)]
                for connection in half_frames:
                    connection.sendall(frame(piece, OPEN | END, 2 * len(piece)))
                for connection in half_messages:
                    connection.sendall(frame(piece, OPEN))
                with socket.create_connection(("127.0.0.1", service.port)) as body:
                    body.sendall(POST + b"Content-Length: 16000000\r\n\r\n" + piece)
                    service.wait_for("im2sp_queue 1.0")
                for connection in (*half_frames, *half_messages):
                    connection.close()
                service.wait_for("im2sp_sockets 0.0")
                service.wait_for("im2sp_queue 0.0")
                sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
            gc.enable()
    assert sizes[-1] - sizes[0] < len(piece)


def test_who_leaves_a_websocket_frees_the_place(gated: GatedCaptioner, photo: bytes) -> None:
    with serving(gated, Settings(queue=2)) as service, ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.client.post, "/v1/captions", content=photo)
        assert gated.reached.acquire(timeout=10)
        with live(service) as spoken:
            spoken.send(photo)
            service.wait_for("im2sp_queue 2.0")
        service.wait_for("im2sp_queue 1.0")  # although the first is still being worked on
        with socket.create_connection(("127.0.0.1", service.port)) as second:
            second.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(photo) + photo)
            service.wait_for("im2sp_queue 2.0")
        service.wait_for("im2sp_queue 1.0")
        gated.gate.set()
        assert first.result().status_code == 200


def test_a_client_who_leaves_is_not_logged(captioner: Captioner, caplog: pytest.LogCaptureFixture) -> None:
    with serving(captioner, Settings()) as service:
        connection = raw_socket(service.port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(frame(b"ping", 9 | END) * 20_000)
        connection.close()  # resets it
        service.wait_for("im2sp_sockets 0.0")
    assert not caplog.records


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
