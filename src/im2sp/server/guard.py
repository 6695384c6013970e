"""The guard: stands before the application, turns strangers away, and sees to the headers of every answer."""

from __future__ import annotations

import asyncio
import hmac
import logging
from hashlib import sha256
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from im2sp.errors import unexpected
from im2sp.server.admission import RateLimit, client_of
from im2sp.server.refusals import Refusal
from im2sp.server.settings import Settings, is_known_host

_log = logging.getLogger("im2sp.server")

PUBLIC = ("/", "/healthz")  # with /static/: the page must load before it can ask for the token
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: Settings, rate: RateLimit) -> None:
        self._app = app
        self._settings = settings
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on; whatever goes wrong behind becomes a sentence in the log and a plain 500."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, self._settings.send_seconds)
        try:
            self._check(scope)
        except Refusal as refusal:
            await _refuse(refusal, scope, receive, answer.send)
            return
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            if isinstance(error, _TooSlowError):
                _log.info("a client was cut off: it did not take its answer")
            else:
                _log.error("%s", unexpected(error))
            if not answer.started:  # otherwise the server closes the connection, so that half an answer shows
                sentence = "something went wrong in the service, not with your request; its log says what"
                await _refuse(Refusal(500, sentence), scope, receive, answer.send)

    def _check(self, scope: Scope) -> None:
        # The parser refuses what is larger only where it comes in more than one piece.
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope["query_string"]) + len(scope.get("raw_path", b"")) > self._settings.head_limit:
            raise Refusal(431, f"the headers are larger than {self._settings.head_limit // 2**10} KiB, the limit")
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if not is_known_host(name, self._settings):
            raise Refusal(421, "this service is not known by that name; start it with --allow-host to add one")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise Refusal(403, "pages of other sites may not use this service")
        client, path = client_of(scope.get("client")), scope["path"]
        if path.startswith("/v1/"):
            self._rate.charge(client)
        if self._settings.token is None or path in PUBLIC or path.startswith("/static/"):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not _same(token.strip(), self._settings.token):
            if not path.startswith("/v1/"):
                self._rate.charge(client)
            raise Refusal(401, "this service needs its token: send it as `Authorization: Bearer ...`")


class _TooSlowError(Exception):
    """The client does not read."""


class _Answer:
    """What is sent: with security headers, and not for ever."""

    def __init__(self, send: Send, seconds: float) -> None:
        self.started = False
        self._send = send
        self._seconds = seconds

    async def send(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        self.started = True
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError as error:
            raise _TooSlowError from error


def _same(given: str, wanted: str) -> bool:
    """In a time that tells nothing about `wanted`, its length included."""
    return hmac.compare_digest(*(sha256(text.encode("utf-8", "replace")).digest() for text in (given, wanted)))


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await refusal.response()(scope, receive, send)
    else:
        await WebSocket(scope, receive, send).send_denial_response(refusal.response())
