"""A URL in, the bytes of a photo out: by http or https, from public addresses, within limits of size and time.

URLs come from outside and are not trusted. The address is checked when it is connected to, so a name cannot change its
meaning in between; redirects are followed a few times and checked like the URL itself. Proxies are not used.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from im2sp.errors import ImageError, reason
from im2sp.image.loading import MAX_FILE_BYTES

MOST_URL = 8_192  # characters
SECONDS = 30.0  # for one photo, redirects and all
_CONNECT_SECONDS = 10.0
_REDIRECTS = 5
_ATTEMPTS, _PAUSE = 3, 0.5  # where the server is busy or hangs up; seconds before the second attempt, then twice that
_PIECE = 2**18  # bytes
_PORTS = {"http": 80, "https": 443}
_MOVED = (301, 302, 303, 307, 308)
_BUSY = (429, 500, 502, 503, 504)
_NAT64 = IPv6Network("64:ff9b::/96")
_SAFE = "/?:@!$&'()*+,;=%-._~[]"  # stays as it is in the path of a URL


@dataclass(frozen=True)
class Fetching:
    """Whether and how photos may be fetched."""

    private: bool = False  # also from addresses that only a private network or this machine has
    seconds: float = SECONDS

    def fetch(self, url: str) -> bytes:
        """The bytes behind a URL, at most MAX_FILE_BYTES.

        Raises ImageError: no http(s) URL, a private address, too large, too slow, no answer, an answer other than 200.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._followed(url, time.monotonic() + self.seconds)
            except _Busy as error:
                if attempt == _ATTEMPTS:
                    raise ImageError(str(error)) from error
                time.sleep(_PAUSE * 2 ** (attempt - 1))
        raise AssertionError  # the last attempt has returned or raised

    def _followed(self, url: str, deadline: float) -> bytes:
        target = url
        for _ in range(_REDIRECTS + 1):
            parts = _checked(target, url)
            found = self._asked(parts, url, deadline)
            if isinstance(found, bytes):
                return found
            target = urljoin(target, found)
        raise ImageError(f"{shown(url)}: leads on more than {_REDIRECTS} times")

    def _asked(self, parts: SplitResult, url: str, deadline: float) -> bytes | str:
        """The body, or where it has moved to."""
        try:
            with _connected(parts, self._address(parts, url), deadline) as connection:
                path = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" * bool(parts.query))
                agent = {"User-Agent": "im2sp", "Accept": "image/*", "Accept-Encoding": "identity"}
                connection.request("GET", path, headers=agent)
                found = _answered(connection.getresponse(), url)
            if time.monotonic() >= deadline:  # a body of no stated length would only seem complete
                raise TimeoutError
            return found
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= deadline or isinstance(error, TimeoutError):
                raise ImageError(f"{shown(url)}: took longer than is allowed") from error
            if isinstance(error, http.client.HTTPException | ConnectionResetError):
                raise _Busy(f"{shown(url)}: the connection broke off ({reason(error)})") from error
            raise ImageError(f"{shown(url)}: cannot be fetched ({reason(error)})") from error

    def _address(self, parts: SplitResult, url: str) -> str:
        """The address to connect to: the first one of the host that is allowed."""
        host = parts.hostname or ""
        port = parts.port or _PORTS[parts.scheme]
        found = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        allowed = [address for address in found if self.private or is_public(address)]
        if not allowed:
            raise ImageError(f"{shown(url)}: {host} is in a private network, which is refused unless it is asked for")
        return allowed[0]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also when it only wraps one."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


def shown(url: str) -> str:
    """A URL for a sentence: printable, and not too long."""
    text = url if len(url) <= 200 else f"{url[:200]}..."
    return text if text.isprintable() else ascii(text)


class _Busy(Exception):
    """Worth another attempt."""


def _checked(target: str, url: str) -> SplitResult:
    if len(target) > MOST_URL:
        raise ImageError(f"{shown(url)}: is or leads to a URL of more than {MOST_URL} characters")
    try:
        parts = urlsplit(target)
        _ = parts.port
    except ValueError as error:
        raise ImageError(f"{shown(url)}: is or leads to what is no URL ({reason(error)})") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ImageError(f"{shown(url)}: is or leads to {shown(target)}, where only http and https are fetched")
    if parts.username is not None:
        raise ImageError(f"{shown(url)}: is or leads to a URL with a user name, which is refused")
    return parts


class _Connection(http.client.HTTPConnection):
    """To an address that was checked, under the name of the host."""

    def __init__(self, parts: SplitResult, connected: socket.socket) -> None:
        self.default_port = _PORTS[parts.scheme]
        host = (parts.hostname or "").encode("idna").decode("ascii")
        super().__init__(f"[{host}]" if ":" in host else host, parts.port)
        self.sock = connected


@contextmanager
def _connected(parts: SplitResult, address: str, deadline: float) -> Iterator[_Connection]:
    port = parts.port or _PORTS[parts.scheme]
    left = max(0.001, deadline - time.monotonic())
    timeout = min(left, _CONNECT_SECONDS)
    with socket.create_connection((address, port), timeout=timeout) as plain, _ended_at(deadline, plain):
        secure = parts.scheme == "https"
        connection = _Connection(parts, _tls().wrap_socket(plain, server_hostname=parts.hostname) if secure else plain)
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def _ended_at(deadline: float, connected: socket.socket) -> Iterator[None]:
    """Hang up at the deadline, however slowly bytes may still come in."""
    twin = connected.dup()  # stays valid when TLS takes the other over

    def hang_up() -> None:
        with suppress(OSError):
            twin.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        twin.close()


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _answered(response: http.client.HTTPResponse, url: str) -> bytes | str:
    if response.status in _MOVED and (location := response.headers.get("Location")):
        return location
    if response.status in _BUSY:
        raise _Busy(f"{shown(url)}: the server answered {response.status}")
    if response.status != 200:
        raise ImageError(f"{shown(url)}: the server answered {response.status}")
    too_large = ImageError(f"{shown(url)}: is larger than {MAX_FILE_BYTES // 2**20} MiB, the limit for a picture file")
    if (response.length or 0) > MAX_FILE_BYTES:
        raise too_large
    body = bytearray()
    while piece := response.read(_PIECE):
        body += piece
        if len(body) > MAX_FILE_BYTES:
            raise too_large
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(body)
