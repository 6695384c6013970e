"""Connections that do not behave: real sockets."""

from __future__ import annotations

import random
import socket
import time

import pytest

from im2sp.captioner import Captioner
from im2sp.server import protocols
from im2sp.server.settings import Settings
from tests.server.conftest import POST, Served, first_answer, serving, status, talk

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


# ---- heads that do not come, clients who leave ----


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
