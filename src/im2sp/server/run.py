"""Running the service: a captioner and settings in, a listening process until somebody ends it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uvicorn

from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError, reason
from im2sp.server.app import create_app
from im2sp.server.protocols import ServiceConfig
from im2sp.server.settings import Settings

_BACKLOG = 128
_KEEP_ALIVE = 5  # seconds
_WARM_UP = np.full((64, 64, 3), 128, dtype=np.uint8)


def run(
    captioner: Captioner,
    settings: Settings,
    announce: Callable[[str], None],
    *,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish what was started. `announce` gets the address once it answers.

    Raises Im2SpError when the address cannot be used, OSError for a certificate that cannot.
    """
    with listen(settings.host, settings.port) as listener:
        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
        server = server_of(captioner, settings, certificate=certificate, key=key)
        for _ in captioner.stream(_WARM_UP):  # opens the graphs, so that the first client need not wait for them
            pass
        announce(_address(listener, settings, secure=server.config.is_ssl))
        server.run(sockets=[listener])


def server_of(
    captioner: Captioner, settings: Settings, *, certificate: Path | None = None, key: Path | None = None
) -> uvicorn.Server:
    """The server, not yet running. Raises OSError for a certificate or key that cannot be used."""
    config = ServiceConfig(
        create_app(captioner, settings),
        settings,
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="critical",  # the guard writes the log, in sentences
        access_log=False,
        proxy_headers=False,  # anybody could claim to be somebody else
        server_header=False,
        backlog=_BACKLOG,
        limit_concurrency=settings.connections,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=round(settings.shutdown_seconds),
        h11_max_incomplete_event_size=settings.head_limit,
        ws_max_size=settings.body_limit,
        ws_per_message_deflate=False,  # a small message must not become a large one
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    config.load()
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises Im2SpError when the address cannot be used."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise Im2SpError(f"cannot listen on {host}, port {port} ({reason(error)}); choose another") from error


def _address(listener: socket.socket, settings: Settings, *, secure: bool) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if secure else 'http'}://{host}:{listener.getsockname()[1]}"
