"""im2sp: a photo goes in, a spoken description comes out, with no text in between.

>>> from im2sp import Captioner
>>> Captioner.from_pretrained().caption("photo.jpg").save("caption.wav")
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from im2sp.errors import (
    AudioError,
    BundleError,
    GraphError,
    Im2SpError,
    ImageError,
    OutputError,
    PlaybackError,
    TableError,
)

if TYPE_CHECKING:
    from im2sp.captioner import Captioner, SpeechCaption, SpeechChunk
    from im2sp.decoding.options import DecodingOptions

    __version__: str

# From 1.29 on, onnxruntime tells its maker about each process and graph, and leaves a number for this machine in the
# user's cache, unless it finds this when it is imported. Whoever has set it to anything else has said what they want.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "AudioError", "BundleError", "Captioner", "DecodingOptions", "GraphError", "Im2SpError", "ImageError",
    "OutputError", "PlaybackError", "SpeechCaption", "SpeechChunk", "TableError", "__version__",
]  # fmt: skip

_HOMES = {
    "Captioner": "im2sp.captioner",
    "DecodingOptions": "im2sp.decoding.options",
    "SpeechCaption": "im2sp.captioner",
    "SpeechChunk": "im2sp.captioner",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import im2sp` costs nothing."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("im2sp")
        except PackageNotFoundError:
            return "0+source"  # run from a source tree that is not installed
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'im2sp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
