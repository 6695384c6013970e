"""ASGI middleware in front of the application: who may ask, security headers, answers to exceptions, and counts."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from im2sp.errors import unexpected
from im2sp.server.metrics import Metrics
from im2sp.server.responses import Refusal
from im2sp.server.settings import Settings

_log = logging.getLogger("im2sp.server")

_DRAINED = 4  # times the largest photo: so much of a body that was refused is read and thrown away
PUBLIC = ("/", "/healthz")  # with /static/: the page must load before it can ask for the token
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
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
    """Checks Host, Origin and token of every request; adds security headers to every response, and counts it."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on. An exception becomes a sentence in the log and a plain 500."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        arrived, started, status = time.perf_counter(), False, 0
        unread = scope["type"] == "http" and "expect" not in Headers(scope=scope)  # who expects, waits with the body

        async def receive_on() -> Message:
            nonlocal unread
            message = await receive()
            unread = message.get("more_body", False)
            return message

        async def send_secured(message: Message) -> None:
            nonlocal started, status
            started = True
            if unread and message["type"] == "http.response.body" and not message.get("more_body"):
                await send({**message, "more_body": True})
                await self._drain(receive)
                message = {"type": "http.response.body"}
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive_on, send_secured)
        except Refusal as refusal:
            await _refuse(refusal, scope, receive, send_secured)
        except Exception as error:
            _log.error("%s", unexpected(error))
            if not started:  # otherwise uvicorn closes the connection: the client sees that the answer is not whole
                sentence = "something went wrong in the service, not with your request; its log says what"
                await _refuse(Refusal(500, sentence), scope, receive, send_secured)
        finally:
            if scope["type"] == "http":
                self._metrics.count_request(scope, status, time.perf_counter() - arrived)

    async def _drain(self, receive: Receive) -> None:
        """Throw away the rest of a body: most clients read the answer when they have sent it, and not if that fails."""
        left, more = _DRAINED * self._settings.body_limit, True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.body_seconds):
                while more and left > 0:
                    message = await receive()
                    more = message.get("more_body", False)
                    left -= len(message.get("body", b""))

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._settings.allows_host(host):
            raise Refusal(421, "this service is not known by that name; start it with --allow-host to add one")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise Refusal(403, "pages of other sites may not use this service")
        if self._settings.token is None or path in PUBLIC or path.startswith("/static/"):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        wanted = self._settings.token.encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode("utf-8", "replace"), wanted):
            raise Refusal(401, "this service needs its token: send it as `Authorization: Bearer ...`")


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await refusal.response()(scope, receive, send)
    else:
        await WebSocket(scope, receive, send).send_denial_response(refusal.response())
