"""The command `im2sp serve`: options in, a listening process until a signal ends it."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import click
import numpy as np
import segno
import uvicorn

from im2sp.captioner import Captioner
from im2sp.cli.options import ANY_PATH, model_option, threads_option
from im2sp.errors import Im2SpError, reason
from im2sp.server.app import create_app
from im2sp.server.protocols import Http, LiveSocket
from im2sp.server.settings import Settings, read_token
from im2sp.speech.whisper import WordRecogniser

_BACKLOG = 128
_HEAD_LIMIT = 16 * 2**10  # bytes of request line and headers
_LAST_SECONDS = 10  # of those to shut down in: for photos that are being spoken about when no request is left
_KEEP_ALIVE = 5  # seconds between two requests on a connection
_LOST_CLIENT = 60  # seconds without a packet, after which the system asks whether a client is still there
_HEAPS = 2  # for all threads: each would have one of its own, and keep there what is free
_M_ARENA_MAX = -8  # malloc.h of glibc
_WARM_UP = np.full((64, 64, 3), 128, dtype=np.uint8)


@click.command(short_help="Serve a page and an HTTP interface.")
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to listen on; other machines get in only with a token.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 takes a free one.")
@click.option("--token-file", type=ANY_PATH, help="File with the token that clients must send; or set IM2SP_TOKEN.")
@click.option("--allow-host", "allowed_hosts", multiple=True, help="A name by which clients call it; may be repeated.")
@click.option("--certificate", type=ANY_PATH, help="For https: the certificate, PEM.")
@click.option("--key", type=ANY_PATH, help="For https: its key, PEM.")
@click.option("--queue", type=click.IntRange(1, 1024), default=16, help="Photos accepted at a time.")
@click.option("--max-per-client", type=click.IntRange(1, 1024), default=8, help="Of them, by one client.")
@model_option
@threads_option
@click.option(
    "--words/--no-words",
    default=None,
    help="Show what a recogniser heard (extra `words`). By default where it is installed.",
)
def serve(
    model: str,
    threads: int,
    words: bool | None,
    token_file: Path | None,
    certificate: Path | None,
    key: Path | None,
    **values: Any,
) -> None:
    """Serve a page and an HTTP interface that speak about photos, until Ctrl-C.

    After SIGINT or SIGTERM it finishes the requests that it has. On a terminal, it prints a link with the token for
    other devices, and its QR code.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # until the server listens to it
    limit_heaps()
    settings = Settings(token=read_token(token_file), **values)
    captioner = Captioner.from_pretrained(model, threads=threads)
    wanted = WordRecogniser.is_installed() if words is None else words
    recogniser = WordRecogniser(captioner.bundle.config.language, threads or 1) if wanted else None
    with listen(settings.host, settings.port) as listener:
        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every write to a client who left
        server = create_server(captioner, settings, recogniser, certificate=certificate, key=key)
        for _ in captioner.stream(_WARM_UP):  # opens the graphs, so that the first client need not wait for them
            pass
        scheme = "https" if server.config.is_ssl else "http"
        port = listener.getsockname()[1]
        click.echo(f"im2sp speaks at {address_of(scheme, settings.host, port)} (Ctrl-C ends it)")
        if settings.token and sys.stdout.isatty():  # a log is no place for it
            link = link_for_others(settings, scheme, port)
            click.echo(f"For other devices, with the token: {link}")
            segno.make(link, micro=False).terminal(compact=True)
        server.run(sockets=[listener])


def create_server(
    captioner: Captioner,
    settings: Settings,
    recogniser: WordRecogniser | None = None,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
) -> uvicorn.Server:
    """Build the server, not yet running. Raises OSError for a certificate or key that cannot be used."""
    config = uvicorn.Config(
        create_app(captioner, settings, recogniser),
        http=Http,
        ws=LiveSocket,
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="critical",  # the guard writes the log, in sentences
        access_log=False,
        proxy_headers=True,  # believed from this machine only, unless FORWARDED_ALLOW_IPS says otherwise
        server_header=False,
        backlog=_BACKLOG,
        limit_concurrency=settings.connections,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=round(settings.shutdown_seconds - _LAST_SECONDS),
        h11_max_incomplete_event_size=_HEAD_LIMIT,
        ws_max_size=settings.body_limit,
        ws_per_message_deflate=False,  # a small message must not become a large one
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    config.load()
    return _Server(config, settings.shutdown_seconds)


class _Server(uvicorn.Server):
    """Ends in time after SIGTERM, as if all was well, which it is."""

    def __init__(self, config: uvicorn.Config, seconds: float) -> None:
        super().__init__(config)
        self._seconds = seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to shut down; after SIGTERM the process returns 0, and ends even if something hangs."""
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
            return
        if not self.should_exit:
            watchdog = threading.Timer(self._seconds, os._exit, (0,))
            watchdog.daemon = True
            watchdog.start()
        self.should_exit = True


def limit_heaps() -> None:
    """Have glibc serve all threads that come from a few heaps."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _HEAPS)


def address_of(scheme: str, host: str, port: int) -> str:
    """Return the address of the page."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def link_for_others(settings: Settings, scheme: str, port: int) -> str:
    """Return the address by which others reach the page, with the token in its fragment, which is never sent."""
    host = settings.allowed_hosts[0] if settings.allowed_hosts else settings.host
    if host in ("0.0.0.0", "::"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # of no one; nothing is sent, but the system says which way it would go
            host = probe.getsockname()[0]
    return f"{address_of(scheme, host, port)}/#token={quote(settings.token or '', safe='')}"


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises Im2SpError when the address cannot be used."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise Im2SpError(f"cannot listen on {host}, port {port} ({reason(error)}); choose another") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # connections inherit it: lost clients are noticed
    if hasattr(socket, "TCP_KEEPIDLE"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _LOST_CLIENT)
    return listener
