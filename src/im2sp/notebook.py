"""Captions in notebooks: a photo, its speech and what is known about it in; HTML out."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from im2sp.embedding import data_uri, picture_uri
from im2sp.errors import ImageError
from im2sp.image.loading import load_image

if TYPE_CHECKING:
    from im2sp.image.loading import ImageSource

PHOTO_SIDE = 320  # pixels, the longer side of the photo


def render_caption(image: ImageSource | None, wav: bytes, sentence: str) -> str:
    """Render HTML that needs nothing from outside. A photo that is gone is left out."""
    parts = []
    if image is not None:
        with suppress(ImageError):
            photo = load_image(image)
            photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
            parts.append(f'<img src="{picture_uri(photo, "JPEG", quality=85)}" alt="The photo">')
    parts.append(f'<audio controls src="{data_uri("audio/wav", wav)}"></audio>')
    return "".join(f"<div>{part}</div>" for part in (*parts, sentence) if part)
