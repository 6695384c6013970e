"""The application: a captioner and settings in, an ASGI application out. Routes and their documentation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import im2sp
from im2sp.captioner import Captioner, SpeechCaption
from im2sp.decoding.search import DecodingOptions
from im2sp.errors import ImageError
from im2sp.server import answers
from im2sp.server.guard import Guard
from im2sp.server.live import add_live
from im2sp.server.metrics import Metrics, Observer
from im2sp.server.page import add_page
from im2sp.server.photos import FIELD, read_photo
from im2sp.server.refusals import Refusal
from im2sp.server.service import Service, with_min_confidence
from im2sp.server.settings import Settings
from im2sp.speech.audio import encode_wav
from im2sp.streaming import SpeechChunk

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {FIELD: _BINARY["schema"]}, "required": [FIELD]}}
_PHOTO = {
    "requestBody": {
        "required": True,
        "content": {"image/*": _BINARY, "application/octet-stream": _BINARY, "multipart/form-data": _FORM},
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": answers.ErrorAnswer, "description": description}
    for status, description in (
        (400, "No photo in the request, or not a proper form."),
        (401, "The token is missing or wrong."),
        (403, "Asked by a page of another site."),
        (406, "No type of answer that the client accepts."),
        (408, "The photo took too long to arrive."),
        (413, "The photo is too large."),
        (415, "Not sent as a photo."),
        (422, "Not a picture that im2sp can read, or a wrong parameter."),
        (429, "The queue is full, or this client asks too often: see Retry-After."),
        (503, "It took too long: see Retry-After."),
    )
}
_STREAM: dict[str, Any] = {
    "description": "By Accept: a WAV file without a length, 16-bit samples (big-endian), or JSON lines: "
    '{"pcm": base64, 16-bit little-endian} for each chunk, then what /v1/captions answers.',
    "content": {answers.WAV: _BINARY, answers.PCM: _BINARY, answers.LINES: {"schema": {"type": "string"}}},
}

Beam = Annotated[int | None, Query(ge=1, le=8, description="Hypotheses side by side; 1 is fastest.")]
Temperature = Annotated[float, Query(ge=0, le=10, description="Above 0: sample, without a beam.")]
Seed = Annotated[int, Query(ge=0, le=2**31, description="Of the sampling.")]
Looks = Annotated[bool, Query(description="Put into the JSON where the model looked, and when.")]
MinConfidence = Annotated[
    float, Query(ge=0, le=1, description="Say that it is not sure where the caption is less likely to be right.")
]


def create_app(captioner: Captioner, settings: Settings) -> FastAPI:
    """The whole service, to be run by one process with one event loop."""
    service = Service(captioner, settings, Metrics())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.close)

    app = FastAPI(
        title="im2sp",
        version=im2sp.__version__,
        description="A photo goes in, a spoken description comes out, with no text in between.",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Guard, settings=settings, rate=service.rate)
    app.add_middleware(Observer, metrics=service.metrics)  # added last, so it stands first
    _add_error_answers(app)
    _add_captions(app, service)
    _add_state(app, service)
    add_live(app, service)
    add_page(app)
    return app


def _add_captions(app: FastAPI, service: Service) -> None:
    formats = (answers.WAV, answers.JSON)
    streams = (answers.WAV, answers.PCM, answers.LINES)

    @app.post(
        "/v1/captions",
        summary="Speak about a photo",
        response_model=answers.Answer,
        responses=_REFUSALS
        | {200: {"content": {answers.WAV: _BINARY}, "description": "By Accept: a WAV file, or JSON."}},
        openapi_extra=_PHOTO,
    )
    async def captions(
        request: Request,
        beam: Beam = None,
        temperature: Temperature = 0,
        seed: Seed = 0,
        min_confidence: MinConfidence = 0,
        audio: Annotated[bool, Query(description="Put the speech into the JSON.")] = False,
        attention: Looks = False,
    ) -> Response:
        wish = answers.negotiate(request.headers.get("accept"), formats)
        options = _options(service.captioner, beam, temperature, seed, min_confidence)
        caption = await _whole(_speech(service, request, options, streamed=False))
        if wish == answers.JSON:
            said = answers.answer(caption, audio=audio, captioner=service.captioner if attention else None)
            return JSONResponse(said.model_dump(exclude_none=True))
        return Response(encode_wav(caption.waveform), media_type=answers.WAV, headers=answers.headers(caption))

    @app.post(
        "/v1/captions/stream",
        summary="Speak about a photo while the rest is still being decided",
        response_class=StreamingResponse,
        responses=_REFUSALS | {200: _STREAM},
        openapi_extra=_PHOTO,
    )
    async def stream(
        request: Request,
        beam: Beam = None,
        temperature: Temperature = 0,
        seed: Seed = 0,
        min_confidence: MinConfidence = 0,
        attention: Looks = False,
    ) -> StreamingResponse:
        wish = answers.negotiate(request.headers.get("accept"), streams)
        options = _options(service.captioner, beam or 1, temperature, seed, min_confidence)
        chunks = _speech(service, request, options, streamed=True)
        first = await anext(chunks)  # what goes wrong now can still be answered with a status of its own
        kind = answers.PCM_TYPE if wish == answers.PCM else wish
        describe = partial(answers.answer, captioner=service.captioner if attention else None)
        return StreamingResponse(answers.encoded(_with(first, chunks), wish, describe), media_type=kind)


async def _speech(
    service: Service, request: Request, options: DecodingOptions | None, *, streamed: bool
) -> AsyncGenerator[SpeechChunk, None]:
    """Take a place in the queue, then the photo; give the speech. Whoever leaves is not worked for any longer."""
    async with service.place(request.scope) as place:
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


async def _with(first: SpeechChunk, rest: AsyncGenerator[SpeechChunk, None]) -> AsyncGenerator[SpeechChunk, None]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


def _options(
    captioner: Captioner, beam: int | None, temperature: float, seed: int, min_confidence: float
) -> DecodingOptions:
    if temperature > 0 and (beam or 1) > 1:
        raise Refusal(422, "sampling knows no beam; give temperature or beam")
    options = with_min_confidence(captioner, captioner.default_options, min_confidence)
    if temperature > 0:
        return replace(options, temperature=temperature, seed=seed, beam=1)
    return replace(options, beam=beam or options.beam)


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether the service is there", response_model=dict[str, str])
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": service.captioner.bundle.config.name}

    @app.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_error_answers(app: FastAPI) -> None:
    """Every refusal is one sentence as JSON."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return error.response()

    @app.exception_handler(ImageError)
    async def no_picture(_: Request, error: ImageError) -> Response:
        return Refusal(422, str(error)).response()

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return Refusal(422, f"{first['loc'][-1]}: {first['msg'].lower()}").response()

    @app.exception_handler(HTTPException)
    async def no_route(_: Request, error: HTTPException) -> Response:
        words = {404: "there is nothing at this address", 405: "this address does not take that method"}
        response = Refusal(error.status_code, words.get(error.status_code, error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, __: ClientDisconnect) -> Response:
        return Refusal(400, "the request ended before the photo did").response()
