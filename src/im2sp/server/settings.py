"""Settings of the service: command line and environment in, one checked `Settings` out."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import Im2SpError, reason

TOKEN_VARIABLE = "IM2SP_TOKEN"
MIN_TOKEN_LENGTH = 16  # characters; shorter ones can be guessed
_TOKEN_FILE_LIMIT = 4_096  # bytes


@dataclass(frozen=True)
class Settings:
    """Where the service listens and what it allows. Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None  # what clients must send; required for every host but this machine
    allowed_hosts: tuple[str, ...] = ()  # Host headers that are accepted besides addresses and localhost
    queue: int = 16  # photos accepted at a time: being received, waiting or being captioned
    max_per_client: int = 8  # of them
    connections: int = 256  # open at a time; more are answered 503
    sockets: int = 8  # WebSockets open at a time
    sockets_per_client: int = 4  # of them
    body_limit: int = 16 * 2**20  # one photo as it is sent
    body_seconds: float = 20  # until it is there
    request_seconds: float = 60  # from the photo to the last piece of its speech
    idle_seconds: float = 300  # between two photos on a WebSocket
    shutdown_seconds: float = 90  # to finish what was started

    def __post_init__(self) -> None:
        if self.token is None and not _is_loopback(self.host):
            raise Im2SpError(
                f"{self.host} can be reached from other machines, so a token is needed: "
                f"put one of {MIN_TOKEN_LENGTH} characters or more into {TOKEN_VARIABLE} or a --token-file"
            )

    def allows_host(self, header: str) -> bool:
        """Whether a Host header names this service.

        An address always does: with DNS rebinding, a page elsewhere can only send a name of its own.
        """
        name = header if header.endswith("]") else header.rpartition(":")[0] or header
        name = name.strip("[]").rstrip(".").lower()
        if name in ("localhost", self.host.lower(), *(allowed.lower() for allowed in self.allowed_hosts)):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def read_token(file: Path | None) -> str | None:
    """Return the token in `file`, or in the environment variable IM2SP_TOKEN, or None.

    It is never on the command line, which every user of a machine can list. Raises Im2SpError for a token that is too
    short or cannot be sent in a header.
    """
    if file is None:
        token, source = os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
        if not token:
            return None
    else:
        source = str(file)
        try:
            with file.open("rb") as opened:
                token = opened.read(_TOKEN_FILE_LIMIT).decode("ascii", errors="replace").strip()
        except OSError as error:
            raise Im2SpError(f"{file}: cannot be read ({reason(error)})") from error
    if len(token) < MIN_TOKEN_LENGTH or not all("!" <= character <= "~" for character in token):
        raise Im2SpError(
            f"the token in {source} must be {MIN_TOKEN_LENGTH} or more letters, digits or signs, without spaces"
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
