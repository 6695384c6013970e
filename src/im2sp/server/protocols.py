"""Connections: uvicorn's protocols, with a time for what they would wait for without end."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from im2sp.server.settings import Settings

_RESTARTING = {"type": "websocket.disconnect", "code": 1012}


class ServiceConfig(uvicorn.Config):
    """uvicorn's, with the times for these protocols."""

    def __init__(self, app: Any, settings: Settings, **options: Any) -> None:
        super().__init__(app, http=HttpProtocol, ws=SocketProtocol, **options)
        self.settings = settings


class HttpProtocol(H11Protocol):
    """Closes connections whose request line and headers do not come, or whose refused body does not end."""

    _awaited: object = None  # h11's state of the client while there is a deadline
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """An answer is out; the client may still be sending what it was refused."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        super().connection_lost(exc)
        self._set_deadline(None, 0)

    def _watch(self) -> None:
        settings = self.config.settings  # type: ignore[attr-defined]
        theirs = self.conn.their_state
        if theirs is h11.IDLE or (theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE):
            self._set_deadline(theirs, settings.head_seconds)
        else:
            self._set_deadline(None, 0)

    def _set_deadline(self, awaited: object, seconds: float) -> None:
        """Further bytes towards the same thing do not put it off."""
        if awaited is self._awaited:
            return
        self._awaited = awaited
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if awaited is not None:
            self._deadline = self.loop.call_later(seconds, self.transport.abort)


class SocketProtocol(WebSocketsSansIOProtocol):
    """Lets the application finish what it is saying before it closes."""

    def shutdown(self) -> None:
        """The service ends."""
        if self.handshake_complete and not self.close_sent:
            self.stop_keepalive()
            self.queue.put_nowait(_RESTARTING)  # type: ignore[arg-type]
        else:
            super().shutdown()
