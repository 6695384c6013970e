"""Routes that speak about photos: POST /v1/captions, POST /v1/captions/stream and the WebSocket /v1/live."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from im2sp.captioner import SpeechCaption, SpeechChunk
from im2sp.decoding.options import DecodingOptions
from im2sp.errors import Im2SpError
from im2sp.server import responses
from im2sp.server.requests import FIELD, read_photo
from im2sp.server.responses import Refusal
from im2sp.server.service import Service, client_of
from im2sp.speech.audio import SAMPLE_RATE, encode_wav

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {FIELD: _BINARY["schema"]}, "required": [FIELD]}}
_PHOTO = {
    "requestBody": {
        "required": True,
        "content": {"image/*": _BINARY, "application/octet-stream": _BINARY, "multipart/form-data": _FORM},
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": responses.ErrorAnswer, "description": description}
    for status, description in (
        (400, "No photo in the request, or not a proper form."),
        (401, "The token is missing or wrong."),
        (403, "Asked by a page of another site."),
        (406, "No type of answer that the client accepts."),
        (408, "The photo took too long to arrive."),
        (413, "The photo is too large."),
        (415, "Not sent as a photo."),
        (422, "Not a picture that im2sp can read, or a wrong parameter."),
        (429, "The queue is full, or this client has too many photos in it: see Retry-After."),
        (503, "It took too long: see Retry-After."),
    )
}
_STREAM: dict[str, Any] = {
    "description": "By Accept: a WAV file without a length, 16-bit samples (big-endian), or JSON lines: "
    '{"pcm": base64, 16-bit little-endian} for each chunk, then what /v1/captions answers; '
    'with `words=true` then {"heard": ...}.',
    "content": {responses.WAV: _BINARY, responses.PCM: _BINARY, responses.LINES: {"schema": {"type": "string"}}},
}
_GOING_AWAY = 1001  # RFC 6455, section 7.4.1


class StreamQuery(BaseModel):
    """Query parameters of a stream."""

    beam: int | None = Field(None, ge=1, le=8, description="Beam size; 1 is greedy and fastest.")
    temperature: float = Field(0, ge=0, le=10, description="Above 0: sample, without a beam.")
    seed: int = Field(0, ge=0, le=2**31, description="Of the sampling.")
    min_confidence: float | None = Field(
        None, ge=0, le=1, description="Say that it cannot tell where a caption is less likely right; 0: never."
    )
    always: bool = Field(False, description="Speak every caption as it is, however doubtful.")
    rate: float = Field(1, ge=0.5, le=3, description="How fast it speaks; the pitch stays.")
    words: bool = Field(
        False, description="Put into the JSON the words that a recogniser heard, where the service has one."
    )
    attention: bool = Field(False, description="Put into the JSON where the model looked, and when.")

    def options(self, service: Service, beam: int | None) -> DecodingOptions:
        """Return decoding options, with this beam where none is given (None: the bundle's). Raises Refusal 422."""
        if self.temperature > 0 and (self.beam or 1) > 1:
            raise Refusal(422, "sampling knows no beam; give temperature or beam")
        beam = 1 if self.temperature > 0 else self.beam or beam
        changes = {"rate": self.rate, "temperature": self.temperature, "seed": self.seed}
        return service.options(self.min_confidence, self.always, **changes, **({"beam": beam} if beam else {}))


class CaptionQuery(StreamQuery):
    """Query parameters of a whole caption."""

    audio: bool = Field(False, description="Put the speech into the JSON.")


def add_captions(app: FastAPI, service: Service) -> None:
    """Add the route of whole captions."""

    @app.post(
        "/v1/captions",
        summary="Speak about a photo",
        response_model=responses.CaptionAnswer,
        responses=_REFUSALS
        | {200: {"content": {responses.WAV: _BINARY}, "description": "By Accept: a WAV file, or JSON."}},
        openapi_extra=_PHOTO,
    )
    async def captions(request: Request, query: Annotated[CaptionQuery, Query()]) -> Response:
        kind = responses.negotiate(request.headers.get("accept"), (responses.WAV, responses.JSON))
        options = query.options(service, beam=None)
        caption = await _whole(_speech(service, request, options, streamed=False))
        if kind == responses.JSON:
            captioner = service.captioner if query.attention else None
            heard = await service.listen(caption.waveform) if query.words else None
            answer = responses.caption_answer(caption, audio=query.audio, captioner=captioner, heard=heard)
            return JSONResponse(answer.model_dump(exclude_none=True))
        headers = responses.caption_headers(caption)
        return Response(encode_wav(caption.waveform), media_type=responses.WAV, headers=headers)


def add_stream(app: FastAPI, service: Service) -> None:
    """Add the route of streams."""

    @app.post(
        "/v1/captions/stream",
        summary="Speak about a photo while the rest is still being decided",
        response_class=StreamingResponse,
        responses=_REFUSALS | {200: _STREAM},
        openapi_extra=_PHOTO,
    )
    async def stream(request: Request, query: Annotated[StreamQuery, Query()]) -> StreamingResponse:
        offers = (responses.WAV, responses.PCM, responses.LINES)
        kind = responses.negotiate(request.headers.get("accept"), offers)
        chunks = _speech(service, request, query.options(service, beam=1), streamed=True)
        first = await anext(chunks)  # what goes wrong now can still be answered with a status of its own
        captioner = service.captioner if query.attention else None
        listen = service.listen if query.words else None
        body = responses.encode_stream(_chain(first, chunks), kind, captioner, listen)
        return StreamingResponse(body, media_type=responses.PCM_TYPE if kind == responses.PCM else kind)


def add_live(app: FastAPI, service: Service) -> None:
    """Add the WebSocket."""
    opened: Counter[str] = Counter()  # by client
    service.metrics.sockets.set_function(opened.total)

    @app.websocket("/v1/live")
    async def live(
        socket: WebSocket,
        min_confidence: Annotated[float | None, Query(ge=0, le=1)] = None,
        always: bool = False,
        rate: Annotated[float, Query(ge=0.5, le=3)] = 1,
    ) -> None:
        client, settings = client_of(socket.scope.get("client")), service.settings
        if opened.total() >= settings.sockets or opened[client] >= settings.sockets_per_client:
            refusal = Refusal(429, "too many WebSockets are open; close one or try again later", retry_after=30)
            await socket.send_denial_response(refusal.response())
            return
        opened[client] += 1
        try:
            await socket.accept()
            await _converse(socket, service, partial(service.options, min_confidence, always, rate=rate, beam=1))
        except (WebSocketDisconnect, ClientDisconnect):
            pass
        finally:
            opened[client] -= 1
            if not opened[client]:
                del opened[client]


async def _speech(
    service: Service, request: Request, options: DecodingOptions, *, streamed: bool
) -> AsyncGenerator[SpeechChunk, None]:
    """Take a place in the queue, then the photo; yield the speech."""
    with service.enter(request.scope) as place:
        photo = await read_photo(request, service.settings)
        async with aclosing(service.speak(photo, options, place, streamed=streamed, gone=_gone(request))) as chunks:
            del photo
            async for chunk in chunks:
                yield chunk


async def _gone(request: Request) -> None:
    """Wait until the client has left. Its body has been read, so nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _whole(chunks: AsyncGenerator[SpeechChunk, None]) -> SpeechCaption:
    async with aclosing(chunks):
        async for chunk in chunks:
            if chunk.caption is not None:
                return chunk.caption
    raise AssertionError("the last chunk has the caption")


async def _chain(first: SpeechChunk, rest: AsyncGenerator[SpeechChunk, None]) -> AsyncGenerator[SpeechChunk, None]:
    async with aclosing(rest):
        yield first
        with suppress(ClientDisconnect):  # nobody is left to hear the rest
            async for chunk in rest:
                yield chunk


async def _converse(socket: WebSocket, service: Service, options: Callable[[], DecodingOptions]) -> None:
    """Answer one photo after the other until the client leaves or is idle for too long."""
    while True:
        try:
            async with asyncio.timeout(service.settings.idle_seconds):
                message = await socket.receive()
        except TimeoutError:
            await socket.close(_GOING_AWAY, "no photo came for a while")
            return
        if message["type"] == "websocket.disconnect":
            return
        try:
            if not (photo := message.get("bytes")):
                raise Refusal(400, "send a photo as one binary message")
            await _speak_live(socket, service, photo, options())
        except Refusal as refusal:
            error = {"type": "error", "error": refusal.sentence, "status": refusal.status}
            await socket.send_json(error | ({"retry_after": refusal.retry_after} if refusal.retry_after else {}))
        except Im2SpError as error:
            await socket.send_json({"type": "error", "error": str(error), "status": 422})


async def _speak_live(socket: WebSocket, service: Service, photo: bytes, options: DecodingOptions) -> None:
    started = False
    with service.enter(socket.scope) as place:
        gone = socket.scope["state"]["gone"].wait()
        async with aclosing(service.speak(photo, options, place, streamed=True, gone=gone)) as chunks:
            del photo
            async for chunk in chunks:
                if not started:
                    await socket.send_json({"type": "start", "sample_rate": SAMPLE_RATE, "encoding": "pcm_s16le"})
                    started = True
                await socket.send_bytes(responses.pcm(chunk.waveform, big_endian=False))
                if chunk.caption is not None:
                    answer = responses.caption_answer(chunk.caption).model_dump(exclude_none=True)
                    await socket.send_json({"type": "end"} | answer)
