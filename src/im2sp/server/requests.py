"""Photos of requests: a raw body or a multipart form in, bytes out, within limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from im2sp.server.responses import Refusal
from im2sp.server.settings import Settings

FIELD = "photo"  # of the form
_MAX_FIELDS = 8
_FIELD_LIMIT = 1_024  # bytes of a form field that is no file


async def read_photo(request: Request, settings: Settings) -> bytes:
    """Read the photo. Nothing is written to disk.

    Raises Refusal: 400 not a proper form, 408 too slow, 413 too large, 415 of a type that is no picture.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "compressed bodies are refused; send the photo as it is")
    is_form = kind == "multipart/form-data"
    if not (is_form or kind.startswith("image/") or kind in ("", "application/octet-stream")):
        raise Refusal(415, f"send a photo: image/*, application/octet-stream, or a form with the file {FIELD!r}")
    pieces = _limited(request, settings.body_limit)
    try:
        async with asyncio.timeout(settings.body_seconds):
            photo = await _from_form(request, pieces) if is_form else b"".join([piece async for piece in pieces])
    except TimeoutError as error:
        raise Refusal(408, f"the photo did not arrive within {settings.body_seconds:g} seconds") from error
    if not photo:
        raise Refusal(400, "there is no photo in the request")
    return photo


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the body in pieces. Raises Refusal 413 by the length that it declares, and by the bytes that come."""
    refusal = Refusal(413, f"the photo is larger than {limit / 2**20:g} MiB, the limit; make it smaller first")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise refusal
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise refusal
        yield piece


class _InMemory(MultiPartParser):
    spool_max_size = 2**62  # a photo never goes to disk


async def _from_form(request: Request, pieces: AsyncGenerator[bytes, None]) -> bytes:
    parser = _InMemory(request.headers, pieces, max_files=1, max_fields=_MAX_FIELDS, max_part_size=_FIELD_LIMIT)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(400, f"the form cannot be read: {error.message.rstrip('.')}") from error
    photo = form.get(FIELD)
    try:
        if not isinstance(photo, UploadFile):
            raise Refusal(400, f"the form has no file {FIELD!r}, or was cut short")
        return await photo.read()
    finally:
        await form.close()
