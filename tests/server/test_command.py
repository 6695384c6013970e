"""`im2sp serve` as a process: it says where it is, answers, ends when told, and refuses in one sentence."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from im2sp.server.command import link_for_others
from im2sp.server.settings import Settings

TOKEN = "0123456789abcdef"


def command(*words: object, bundle: Path) -> list[str]:
    return [sys.executable, "-m", "im2sp", "serve", "--model", str(bundle), "--threads", "1", *map(str, words)]


def refused(*words: object, bundle: Path) -> str:
    """The one sentence on stderr of a service that does not start."""
    done = subprocess.run(command(*words, bundle=bundle), capture_output=True, text=True, timeout=60, env=plain())
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def plain(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "IM2SP_TOKEN"} | more


@pytest.mark.parametrize(("end", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_until_it_is_ended(tiny_bundle: Path, photo: bytes, end: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        command("--port", 0, bundle=tiny_bundle),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain(PYTHONUNBUFFERED="1"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # also in a background run
    )  # fmt: skip
    assert process.stdout is not None
    address = process.stdout.readline().split()[3]
    assert address.startswith("http://127.0.0.1:")
    with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
        assert client.post("/v1/captions", content=photo).status_code == 200
        assert client.post("/v1/captions", content=b"no photo").status_code == 422
    process.send_signal(end)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert (stdout, stderr.strip()) == ("", "stopped" if end == signal.SIGINT else "")


HANGS = """
import functools, sys, time
import im2sp.server.command as command
from im2sp.cli import main
from im2sp.image.encoder import ImageEncoder
command.Settings, command._LAST_SECONDS = functools.partial(command.Settings, shutdown_seconds=2), 1
encode = ImageEncoder.encode_pixels
hang = lambda pixels: pixels.std((2, 3)).max() > 0.01 and time.sleep(1e6)  # the warm-up is of one colour
ImageEncoder.encode_pixels = lambda self, pixels: hang(pixels) or encode(self, pixels)
main()
"""


def test_it_ends_in_time_whatever_hangs(tiny_bundle: Path, photo: bytes) -> None:
    words = [sys.executable, "-c", HANGS, *command("--port", 0, bundle=tiny_bundle)[3:]]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=plain(PYTHONUNBUFFERED="1"))
    assert process.stdout is not None
    port = int(process.stdout.readline().split()[3].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(photo))
        connection.sendall(photo)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def test_other_machines_need_a_token(tiny_bundle: Path) -> None:
    assert "a token is needed" in refused("--host", "0.0.0.0", "--port", 0, bundle=tiny_bundle)


def test_a_port_that_is_taken(tiny_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1, port {port} (" in refused("--port", port, bundle=tiny_bundle)


def test_a_certificate_that_is_none(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    words = ("--certificate", tmp_path / "x.pem", "--key", tmp_path / "x.pem")
    assert "Traceback" not in refused("--port", 0, *words, bundle=tiny_bundle)


HEAPS = """
import ctypes, threading
from im2sp.server.command import limit_heaps
limit_heaps()
together = threading.Barrier(16)
threads = [threading.Thread(target=together.wait) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_threads_share_heaps() -> None:
    """Free memory of sixteen heaps is 200 MB after some minutes."""
    done = subprocess.run([sys.executable, "-c", HEAPS], capture_output=True, text=True, check=True)
    assert done.stderr.count("Arena ") == 2


def test_the_link_for_other_devices(tiny_bundle: Path) -> None:
    """It has the token behind the #, and is shown on a terminal only, with its QR code: a log is no place for it."""
    named = Settings(host="0.0.0.0", token=TOKEN, allowed_hosts=("photos.example",))
    assert link_for_others(named, "https", 8443) == f"https://photos.example:8443/#token={TOKEN}"
    assert link_for_others(Settings(token=TOKEN + "#&"), "http", 1).endswith(f"/#token={TOKEN}%23%26")
    assert "0.0.0.0" not in link_for_others(Settings(host="0.0.0.0", token=TOKEN), "http", 8000)
    main, other = os.openpty()
    process = subprocess.Popen(
        command("--port", 0, bundle=tiny_bundle), stdout=other, env=plain() | {"IM2SP_TOKEN": TOKEN}
    )
    try:
        shown = b""
        while shown.count(b"\n") < 12:  # of the QR code, too
            shown += os.read(main, 4096)
    finally:
        process.terminate()
        process.wait()
    assert f"#token={TOKEN}" in shown.decode()
    assert "\u2588" in shown.decode()
