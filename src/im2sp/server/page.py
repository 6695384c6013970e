"""The page: static files of this package, which load nothing from anywhere else."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).with_name("static")
_ASK_AGAIN = {"Cache-Control": "no-cache"}  # whether it has changed: an old script must not meet a new service


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_ASK_AGAIN)
        return response


def add_page(app: FastAPI) -> None:
    """Add the page at / and its files below /static."""

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers=_ASK_AGAIN)

    app.mount("/static", _Files(directory=STATIC), name="static")
