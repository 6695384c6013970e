"""The command `im2sp serve`: options in, a listening process until a signal ends it."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import click
import numpy as np
import uvicorn

from im2sp.captioner import Captioner
from im2sp.cli.options import ANY_PATH, model_option, threads_option
from im2sp.errors import Im2SpError, reason
from im2sp.server.app import create_app
from im2sp.server.settings import Settings, read_token

_BACKLOG = 128
_HEAD_LIMIT = 16 * 2**10  # bytes of request line and headers
_KEEP_ALIVE = 5  # seconds between two requests on a connection
_LOST_CLIENT = 60  # seconds without a packet, after which the system asks whether a client is still there
_WARM_UP = np.full((64, 64, 3), 128, dtype=np.uint8)


@click.command(short_help="Serve a page and an HTTP interface.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; other machines get in only with a token.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--token-file", type=ANY_PATH, help="File with the token that clients must send; or set IM2SP_TOKEN.")
@click.option("--allow-host", "allowed_hosts", multiple=True, help="A name by which clients call it; may be repeated.")
@click.option("--certificate", type=ANY_PATH, help="For https: the certificate, PEM.")
@click.option("--key", type=ANY_PATH, help="For https: its key, PEM.")
@click.option("--queue", type=click.IntRange(1, 1024), default=16, show_default=True, help="Photos accepted at a time.")
@click.option(
    "--max-per-client", type=click.IntRange(1, 1024), default=8, show_default=True, help="Of them, by one client."
)
@model_option
@threads_option
def serve(
    model: str, threads: int, token_file: Path | None, certificate: Path | None, key: Path | None, **values: Any
) -> None:
    """Serve a page and an HTTP interface that speak about photos, until Ctrl-C.

    After SIGINT or SIGTERM it finishes the requests that it has.
    """
    settings = Settings(token=read_token(token_file), **values)
    captioner = Captioner.from_pretrained(model, threads=threads)
    with listen(settings.host, settings.port) as listener:
        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
        server = create_server(captioner, settings, certificate=certificate, key=key)
        for _ in captioner.stream(_WARM_UP):  # opens the graphs, so that the first client need not wait for them
            pass
        scheme = "https" if server.config.is_ssl else "http"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        click.echo(f"im2sp speaks at {scheme}://{host}:{listener.getsockname()[1]} (Ctrl-C ends it)")
        server.run(sockets=[listener])


def create_server(
    captioner: Captioner, settings: Settings, *, certificate: Path | None = None, key: Path | None = None
) -> uvicorn.Server:
    """Build the server, not yet running. Raises OSError for a certificate or key that cannot be used."""
    config = uvicorn.Config(
        create_app(captioner, settings),
        http="h11",
        ws="websockets-sansio",
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
        timeout_graceful_shutdown=round(settings.shutdown_seconds),
        h11_max_incomplete_event_size=_HEAD_LIMIT,
        ws_max_size=settings.body_limit,
        ws_per_message_deflate=False,  # a small message must not become a large one
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    config.load()
    return uvicorn.Server(config)


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
