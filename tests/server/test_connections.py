"""Connections that do not behave, shutting down, and the WebSocket: real sockets."""

from __future__ import annotations

import gc
import json
import random
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


def test_who_sends_all_before_it_reads_gets_the_refusal(captioner: Captioner) -> None:
    """As urllib and browsers do: they tell of a broken connection when it is closed while they send."""
    with serving(captioner, Settings(body_limit=2**20)) as service:
        for head in (b"Content-Length: 4000000", b"Content-Length: 4000000\r\nContent-Type: text/plain"):
            head = POST + b"Connection: close\r\n" + head + b"\r\n\r\n"
            answer = talk(service.port, head, *[bytes(400_000)] * 10, pause=0.01)
            assert status(answer) == (415 if b"text" in head else 413)
            assert b"x-content-type-options: nosniff" in answer
            assert answer.endswith(b'"}')
        endless = POST + b"Connection: close\r\nContent-Length: 50000000\r\n\r\n" + bytes(50_000_000)
        assert talk(service.port, endless) == b""  # so much is not read for an answer
        waits = POST + b"Expect: 100-continue\r\nContent-Length: 4000000\r\n\r\n"
        assert status(first_answer(service.port, waits)) == 413  # at once


def test_a_body_that_breaks_off_after_its_refusal_is_not_logged(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(POST + b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert status(connection.recv(65536)) == 415
        connection.sendall(b"no chunk\r\n")
        while connection.recv(65536):
            pass
    assert not caplog.records


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


# ---- chunks of one byte, heads that do not come, clients who leave ----


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


def test_heads_that_do_not_come_end_the_connection(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.2)
    with serving(captioner, Settings()) as service:
        for begun in (b"", b"GET / HTTP/1.1\r\nHost:", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT"):
            assert talk(service.port, begun).count(b"200 OK") == begun.count(b"healthz")


def test_one_client_has_a_share_of_the_connections(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "CONNECTIONS", 3)
    with serving(captioner, Settings()) as service:  # this machine may be a proxy
        held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(8)]
        assert service.client.get("/healthz").status_code == 200
        for connection in held:
            connection.close()
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "192.0.2.1")
    with serving(captioner, Settings()) as service:
        held = [socket.create_connection(("127.0.0.1", service.port), timeout=20) for _ in range(3)]
        assert talk(service.port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        for connection in held:
            connection.close()


OPEN, CONTINUED, END = 2, 0, 128  # of WebSocket frames
UPGRADE = (
    b"GET /v1/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


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


def test_a_client_who_leaves_a_stream_is_not_logged(
    captioner: Captioner, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Captioner):
        def stream(self, image, options=None):  # type: ignore[no-untyped-def]
            for chunk in super().stream(image, options):
                yield chunk
                time.sleep(0.3)

    with serving(Slow(captioner.bundle, threads=1), Settings()) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            head = b"POST /v1/captions/stream HTTP/1.1\r\nHost: localhost\r\n"
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(photo) + photo)
            assert connection.recv(4096)
        service.wait_for("im2sp_queue 0.0")
    assert not caplog.records


def test_an_odd_origin_of_a_websocket_is_refused_like_any_other(served: Served) -> None:
    answer = talk(served.port, UPGRADE + b"Origin: http://[\r\n\r\n")
    assert status(answer) == 403
    assert b"x-content-type-options: nosniff" in answer.lower()


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


def test_a_websocket_withholds_what_is_unlikely(calibrated_bundle: Path, photo: bytes) -> None:
    captioner = Captioner.from_pretrained(calibrated_bundle, threads=1)
    with serving(captioner, Settings()) as service, live(service, "?min_confidence=1") as socket:
        samples, end = ask(socket, photo)
        assert (end["type"], end["abstained"], end["units"]) == ("end", True, [3, 7, 3, 1])
        assert len(samples) == 2 * 24 * 320
