"""Captions in notebooks: a caption in; its photo, a player and its confidence as HTML out."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from im2sp.errors import ImageError
from im2sp.explain.embedding import data_uri, picture_uri
from im2sp.image.loading import load_image

if TYPE_CHECKING:
    from im2sp.captioner import SpeechCaption

PHOTO_SIDE = 320  # pixels, the longer side of the photo


def render_caption(caption: SpeechCaption) -> str:
    """Render a caption as HTML that needs nothing from outside. A photo that is gone is left out."""
    parts = []
    if caption.image is not None:
        with suppress(ImageError):
            photo = load_image(caption.image)
            photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
            parts.append(f'<img src="{picture_uri(photo, "JPEG", quality=85)}" alt="The photo">')
    parts.append(f'<audio controls src="{data_uri("audio/wav", caption.to_wav_bytes())}"></audio>')
    if caption.abstained:
        parts.append("The model is not sure what this shows.")
    if caption.confidence is not None:
        parts.append(f"Probability that the description is right: {caption.confidence:.0%}.")
    return "".join(f"<div>{part}</div>" for part in parts)
