"""The WebSocket: one photo after the other in, speech about each out while it is being made."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated

from fastapi import FastAPI, Query, WebSocket
from starlette.websockets import WebSocketDisconnect

from im2sp.errors import Im2SpError
from im2sp.server.admission import client_of
from im2sp.server.answers import answer, pcm
from im2sp.server.refusals import Refusal
from im2sp.server.service import Service, with_min_confidence
from im2sp.speech.audio import SAMPLE_RATE

PATH = "/v1/live"
_GOING_AWAY, _RESTARTING = 1001, 1012  # RFC 6455, section 7.4.1, and its registry
_START = {"type": "start", "sample_rate": SAMPLE_RATE, "encoding": "pcm_s16le"}


def add_live(app: FastAPI, service: Service) -> None:
    """Add the WebSocket to the routes."""
    opened = 0

    @app.websocket(PATH)
    async def live(socket: WebSocket, min_confidence: Annotated[float, Query(ge=0, le=1)] = 0) -> None:
        nonlocal opened
        if opened >= service.settings.sockets:
            refusal = Refusal(429, "too many WebSockets are open; close one or try again later", retry_after=30)
            await socket.send_denial_response(refusal.response())
            return
        opened += 1
        try:
            await socket.accept()
            await _converse(socket, service, min_confidence)
        except WebSocketDisconnect:
            pass
        finally:
            opened -= 1


async def _converse(socket: WebSocket, service: Service, min_confidence: float) -> None:
    while True:
        try:
            async with asyncio.timeout(service.settings.idle_seconds):
                message = await socket.receive()
        except TimeoutError:
            await socket.close(_GOING_AWAY, "no photo came for a while")
            return
        if message["type"] == "websocket.disconnect":
            if message.get("code") == _RESTARTING:  # the service shuts down, and has finished what it was saying
                await socket.close(_RESTARTING)
            return
        try:
            await _speak(socket, service, message.get("bytes"), min_confidence)
        except Refusal as refusal:
            await socket.send_json(
                {"type": "error", "error": refusal.sentence, "status": refusal.status}
                | ({"retry_after": refusal.retry_after} if refusal.retry_after else {})
            )
        except Im2SpError as error:
            await socket.send_json({"type": "error", "error": str(error), "status": 422})


async def _speak(socket: WebSocket, service: Service, photo: bytes | None, min_confidence: float) -> None:
    if not photo:
        raise Refusal(400, "send a photo as one binary message")
    service.rate.charge(client_of(socket.scope.get("client")))
    options = with_min_confidence(service.captioner, replace(service.captioner.default_options, beam=1), min_confidence)
    async with (
        service.place(socket.scope) as place,
        aclosing(service.speak(photo, options, place, streamed=True)) as chunks,
    ):
        started = False
        async for chunk in chunks:
            if not started:
                await socket.send_json(_START)
                started = True
            await socket.send_bytes(pcm(chunk.waveform, big_endian=False))
            if chunk.caption is not None:
                await socket.send_json({"type": "end"} | answer(chunk.caption).model_dump(exclude_none=True))
