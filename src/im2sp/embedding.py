"""Files inside HTML: pictures and sound in, data addresses out."""

from __future__ import annotations

import base64
import io

from PIL import Image


def picture_uri(image: Image.Image, kind: str, **options: int) -> str:
    """Return the address of a picture: `kind` is JPEG or PNG, `options` are those of PIL's `save`."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return data_uri(f"image/{kind.lower()}", file.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    """Return the address of bytes of a media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
