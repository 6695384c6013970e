"""Photos come from URLs within limits; what is private, slow, large or of another kind is refused in one sentence."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from im2sp.collections import fetching
from im2sp.collections.fetching import Fetching, is_public
from im2sp.collections.slices import TableRows, read_whole
from im2sp.errors import ImageError
from tests.collections.sources import write_table

BODY = b"a photo" * 1_000


class Handler(BaseHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        kind, _, rest = self.path[1:].partition("/")
        getattr(self, f"on_{kind}")(rest)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def on_photo(self, _: str) -> None:
        self.answer(200, BODY, Content_Length=str(len(BODY)))

    def on_status(self, number: str) -> None:
        self.answer(int(number))

    def on_moved(self, where: str) -> None:
        self.answer(302, Location=where.replace("%3A", ":"))

    def on_loop(self, _: str) -> None:
        self.answer(302, Location="/loop/")

    def on_busy(self, _: str) -> None:
        self.answer(503) if len(self.server.asked) < 3 else self.on_photo("")  # type: ignore[attr-defined]

    def on_short(self, _: str) -> None:
        self.answer(200, BODY, Content_Length=str(len(BODY) + 1))

    def on_promise(self, _: str) -> None:
        self.answer(200, Content_Length=str(2**40))

    def on_endless(self, _: str) -> None:
        self.answer(200, bytes(2**20))

    def on_drip(self, _: str) -> None:
        self.answer(200)
        try:
            for _ in range(1_000):
                self.wfile.write(b"x")
                time.sleep(0.01)
        except OSError:  # it has hung up, as it should
            pass

    def on_headers(self, _: str) -> None:
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            for _ in range(1_000):
                self.wfile.write(b"x")
                time.sleep(0.01)
        except OSError:
            pass


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def base(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    server.asked = []  # type: ignore[attr-defined]
    monkeypatch.setattr(fetching, "_PAUSE", 0.0)
    return f"http://127.0.0.1:{server.server_port}"


def refused(url: str, **options: float) -> str:
    with pytest.raises(ImageError) as error:
        Fetching(private=True, **options).fetch(url)  # type: ignore[arg-type]
    return str(error.value)


def test_a_photo(base: str) -> None:
    assert Fetching(private=True).fetch(f"{base}/photo/a b%20c.jpg?x=ü") == BODY
    assert Fetching(private=True).fetch(f"{base}/moved/../photo/a") == BODY


def test_private_addresses_are_not_even_asked(base: str, server: ThreadingHTTPServer) -> None:
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(ImageError, match=f"{host} is in a private network"):
            Fetching().fetch(f"http://{host}:{server.server_port}/photo/")
    assert server.asked == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.com/a.jpg", "data:image/png;base64,AAAA", "a.jpg", "http:///a.jpg", ""],
)
def test_only_http(url: str) -> None:
    assert "only http and https are fetched" in refused(url)


def test_redirects_are_checked_too(base: str) -> None:
    assert "leads to file:///etc/passwd, where only http and https" in refused(f"{base}/moved/file:///etc/passwd")
    assert refused(f"{base}/loop/") == f"{base}/loop/: leads on more than 5 times"
    with pytest.raises(ImageError, match="private network"):  # what a public server could try
        Fetching()._asked(fetching._checked(f"{base}/photo/", ""), "http://example.com/a.jpg", time.monotonic() + 5)


def test_strange_urls() -> None:
    assert "with a user name, which is refused" in refused("http://me:secret@127.0.0.1/a.jpg")
    assert "no URL" in refused("http://127.0.0.1:port/a.jpg")
    assert "more than 8192 characters" in refused("http://127.0.0.1/" + "a" * 9_000)
    assert refused("http://127.0.0.1/\n\x1b[31m" + "a" * 300).isprintable()


def test_answers_that_are_no_photo(base: str) -> None:
    assert refused(f"{base}/status/404") == f"{base}/status/404: the server answered 404"
    assert refused("http://127.0.0.1:1/a.jpg").startswith("http://127.0.0.1:1/a.jpg: cannot be fetched (")


def test_a_busy_server_is_asked_again(base: str, server: ThreadingHTTPServer) -> None:
    assert Fetching(private=True).fetch(f"{base}/busy/") == BODY
    server.asked.clear()  # type: ignore[attr-defined]
    assert "the server answered 500" in refused(f"{base}/status/500")
    assert "the connection broke off" in refused(f"{base}/short/")
    assert len(server.asked) == 6  # type: ignore[attr-defined]


def test_size(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is larger than 64 MiB" in refused(f"{base}/promise/")
    monkeypatch.setattr(fetching, "MAX_FILE_BYTES", 2**19)
    assert "is larger than 0 MiB" in refused(f"{base}/endless/")


@pytest.mark.parametrize("kind", ["drip", "headers"])
def test_time(base: str, kind: str) -> None:
    assert refused(f"{base}/{kind}/", seconds=0.2) == f"{base}/{kind}/: took longer than is allowed"


def test_rows_of_a_table_are_fetched_in_order(base: str, tmp_path: Path) -> None:
    urls = [f"{base}/photo/{row}" for row in range(40)]
    urls[7], urls[9] = f"{base}/status/404", ""
    table = write_table(tmp_path / "a.parquet", {"url": [*urls, None], "key": [f"{row}.jpg" for row in range(41)]})
    photos = list(read_whole(TableRows(str(table), 0, 41, private=True)))
    assert [photo.image_id for photo in photos] == [f"{row}.jpg" for row in range(41)]
    assert {row: photo.error for row, photo in enumerate(photos) if photo.error} == {
        7: f"{base}/status/404: the server answered 404",
        9: "a.parquet/9: has no URL, or one that is too long",
        40: "a.parquet/40: has no URL, or one that is too long",
    }
    assert photos[39].image.read() == BODY  # type: ignore[union-attr]
    refused_all = read_whole(TableRows(str(table), 0, 2))
    assert all("is in a private network" in (photo.error or "") for photo in refused_all)
