"""Connections of the service: uvicorn's protocols for HTTP and WebSockets, within limits of time and memory.

uvicorn parses whatever has arrived at once, so that a megabyte in chunks of one byte keeps all others waiting for
seconds. Here a connection gives the event loop back after SLICE_SECONDS, must bring the heads of its requests in time,
and keeps nothing when its client leaves. One client has a share of the connections.
"""

from __future__ import annotations

import asyncio
from typing import Any

from h11 import IDLE, SEND_RESPONSE
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from im2sp.server.service import client_of

SLICE_SECONDS = 0.005  # of parsing at a time
SLICE_BYTES = 2_048  # parsed before the time is looked at
HEAD_SECONDS = 20  # for the head of a request
CONNECTIONS = 64  # of one client; a trusted proxy may have all


class _Sliced(asyncio.Protocol):
    """Mixin: hands what arrives to the parser of the next class in slices, and reads on when it has been parsed."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._arrived = bytearray()
        self._parsing: asyncio.Handle | None = None  # the next slice

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, or the first of it."""
        self._arrived += data
        if self._parsing is None:
            self._parse()
        else:
            self.transport.pause_reading()

    def _parse(self) -> None:
        self._parsing = None
        end = self.loop.time() + SLICE_SECONDS
        while self._arrived and not self.transport.is_closing():
            if self.loop.time() > end:
                self.transport.pause_reading()
                self._parsing = self.loop.call_soon(self._parse)
                return
            piece = bytes(self._arrived[:SLICE_BYTES])
            del self._arrived[:SLICE_BYTES]
            self._parse_slice(piece)
        if not self.transport.is_closing() and not self._is_paused():
            self.transport.resume_reading()

    def _parse_slice(self, data: bytes) -> None:
        super().data_received(data)

    def _is_paused(self) -> bool:
        """Whether uvicorn waits for the application before it reads on."""
        raise NotImplementedError

    def connection_lost(self, error: Exception | None) -> None:
        """Forget what has not been parsed: protocols stand in cycles, which are collected late."""
        self._arrived.clear()
        if self._parsing is not None:
            self._parsing.cancel()
        super().connection_lost(error)


class Http(_Sliced, H11Protocol):
    """A connection of HTTP/1.1."""

    _head: asyncio.TimerHandle | None = None  # ends the connection, unless the head of a request comes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless this client has its share of connections."""
        super().connection_made(transport)
        client = client_of(self.client)
        trusted = self.config.forwarded_allow_ips or ""
        proxies = trusted.split(",") if isinstance(trusted, str) else trusted
        share = len(self.connections) if {"*", client} & set(proxies) else CONNECTIONS
        others = (other for other in self.connections if isinstance(other, Http | LiveSocket))
        if sum(client_of(other.client) == client for other in others) > share:
            transport.close()
        self._watch_head()

    def _parse_slice(self, data: bytes) -> None:
        super()._parse_slice(data)
        self._watch_head()

    def _watch_head(self) -> None:
        """Let time run while no request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_watching(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; where an answer has begun, there can be no other."""
        if self.conn.our_state in (IDLE, SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        """Wait for the next request for uvicorn's time; its head has time again once it begins."""
        super().on_response_complete()
        self._stop_watching()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand over to a WebSocket, with what has arrived for it already."""
        self._stop_watching()
        super().handle_websocket_upgrade(event)
        rest = self.conn.trailing_data[0] + bytes(self._arrived)
        self._arrived.clear()
        protocol = self.transport.get_protocol()
        if rest and isinstance(protocol, LiveSocket):
            protocol.data_received(rest)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the body of a request that is not whole."""
        self._stop_watching()
        super().connection_lost(error)
        if self.cycle is not None:
            self.cycle.body = bytearray()

    def _is_paused(self) -> bool:
        return self.flow.read_paused


class LiveSocket(_Sliced, WebSocketsSansIOProtocol):
    """A WebSocket. The state of its scope has `gone`, an event that is set when the client has left."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.app_state = self.app_state | {"gone": asyncio.Event()}

    def handle_cont(self, event: Frame) -> None:
        """Join the pieces of a message as they come: a list of single bytes takes a hundred times as much."""
        if not isinstance(self.frames[0], bytearray):
            self.frames[0] = bytearray(self.frames[0])  # type: ignore[call-overload]
        self.frames[0] += event.data
        if event.fin:
            self.frames[0] = bytes(self.frames[0])
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answer, unless the client has left: asyncio logs every write that goes nowhere."""
        if not self.transport.is_closing():
            super().handle_ping()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget messages that are not whole or not taken yet."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.frames = []
        self.conn.reader.discard()
        self.conn.parser.close()  # it has the last frame
        super().connection_lost(error)
        self.app_state["gone"].set()

    def _is_paused(self) -> bool:
        return self.read_paused
