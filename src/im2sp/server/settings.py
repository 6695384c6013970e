"""What the service is told: command line and environment in, one frozen `Settings` out, checked."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import Im2SpError, reason

TOKEN_VARIABLE = "IM2SP_TOKEN"
SHORTEST_TOKEN = 16  # characters; shorter ones can be guessed
_TOKEN_LIMIT = 4_096  # bytes of a token file
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Settings:
    """Where the service listens and what it allows. Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None  # what clients must present; needed for every host but this machine
    allowed_hosts: tuple[str, ...] = ()  # names by which clients may call the service, besides addresses and localhost
    queue: int = 16  # photos taken on at a time: being received, waiting or being spoken about
    max_per_client: int = 8  # of them, by one client
    batch: int = 1  # photos that the image encoder sees at once; more did not pay on a CPU (docs/service.md)
    rate: int = 120  # requests a minute by one client; 0 switches the limit off
    connections: int = 256  # open at a time; more are answered 503
    sockets: int = 8  # WebSockets open at a time
    head_limit: int = 16 * 2**10  # request line and headers
    head_seconds: float = 10  # until request line and headers are there
    body_limit: int = 16 * 2**20  # one photo as it is sent
    body_seconds: float = 20  # until it is there
    request_seconds: float = 60  # from the photo to the last piece of its speech
    send_seconds: float = 30  # until a client takes the next piece of an answer
    idle_seconds: float = 300  # between two photos on a WebSocket
    shutdown_seconds: float = 90  # to finish what was started

    def __post_init__(self) -> None:
        if self.token is None and not is_local(self.host):
            raise Im2SpError(
                f"{self.host} can be reached from other machines, so a token is needed: "
                f"put one of {SHORTEST_TOKEN} characters or more into {TOKEN_VARIABLE} or a --token-file"
            )


def is_local(host: str) -> bool:
    """Whether only this machine can connect to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_known_host(name: str, settings: Settings) -> bool:
    """Whether a client may call the service `name` (a Host header without its port).

    An address is always known: a page elsewhere can only be rebound to this service under a name of its own.
    """
    name = name.strip("[]").rstrip(".").lower()
    if name in _LOCAL_NAMES or name in (settings.host.lower(), *(known.lower() for known in settings.allowed_hosts)):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def read_token(file: Path | None) -> str | None:
    """The token of `file`, or of the environment variable IM2SP_TOKEN, or None. Never from the command line, which
    every user of a machine can list. Raises Im2SpError for a token that is too short or cannot be sent.
    """
    if file is None:
        token, source = os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
        if not token:
            return None
    else:
        source = str(file)
        try:
            with file.open("rb") as opened:
                token = opened.read(_TOKEN_LIMIT).decode("ascii", errors="replace").strip()
        except OSError as error:
            raise Im2SpError(f"{file}: cannot be read ({reason(error)})") from error
    if len(token) < SHORTEST_TOKEN or not all("!" <= character <= "~" for character in token):
        raise Im2SpError(
            f"the token in {source} must be {SHORTEST_TOKEN} or more letters, digits or signs, without spaces"
        )
    return token
