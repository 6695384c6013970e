"""The ASGI application: a captioner and settings in; routes, page, metrics and error responses out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

import im2sp
from im2sp.captioner import Captioner
from im2sp.errors import ImageError
from im2sp.server.guard import Guard
from im2sp.server.metrics import Metrics
from im2sp.server.responses import Refusal
from im2sp.server.routes import add_captions, add_live, add_stream
from im2sp.server.service import Service
from im2sp.server.settings import Settings
from im2sp.speech.whisper import WordRecogniser

STATIC = Path(__file__).with_name("static")
_NO_CACHE = {"Cache-Control": "no-cache"}  # revalidate: an old script must not meet a new service


def create_app(captioner: Captioner, settings: Settings, recogniser: WordRecogniser | None = None) -> FastAPI:
    """Build the whole service, to be run by one process with one event loop."""
    service = Service(captioner, settings, Metrics(), recogniser)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="im2sp",
        version=im2sp.__version__,
        description="A photo goes in, a spoken description comes out, with no text in between.",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Guard, settings=settings, metrics=service.metrics)
    _add_error_handlers(app)
    for add in (add_captions, add_stream, add_live, _add_page):
        add(app, service)
    return app


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_NO_CACHE)
        return response


def _add_page(app: FastAPI, service: Service) -> None:
    """Add the page, the state and the metrics."""

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers=_NO_CACHE)

    app.mount("/static", _Files(directory=STATIC), name="static")

    @app.get("/healthz", summary="Whether the service is there", response_model=dict[str, str])
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": service.captioner.bundle.config.name}

    @app.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every refusal with one sentence as JSON."""

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
