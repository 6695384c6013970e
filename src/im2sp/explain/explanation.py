"""A photo in, its explanation out: everything that the page and the picture show, drawn from one caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from im2sp.arrays import FloatArray, IntArray
from im2sp.captioner import Captioner, SpeechCaption
from im2sp.decoding.search import DecodingOptions
from im2sp.explain.timing import attention_in_stretches, attention_maps, equal_stretches, token_boundaries
from im2sp.explain.words import HeardWord, WordListener
from im2sp.image.loading import load_image

PHOTO_SIDE = 960  # pixels, the longer side of the photo inside an explanation

_DOWN, _ACROSS = ("top", "middle", "bottom"), ("left", "centre", "right")


@dataclass(frozen=True)
class Explanation:
    """What was said about a photo, when, and where the model looked meanwhile."""

    title: str
    photo: Image.Image  # RGB, at most PHOTO_SIDE
    caption: SpeechCaption
    boundaries: IntArray  # int64 [T + 1], frames of 20 ms: token t sounds between the values t and t + 1
    maps: FloatArray  # float32 [T, rows, columns]: shares of attention on the parts of the picture
    edges: IntArray  # int64 [S + 1], frames: the stretches of speech that are shown side by side
    stretch_maps: FloatArray  # float32 [S, rows, columns]
    words: tuple[HeardWord, ...] | None = None  # that a recogniser heard in the speech; None where none listened


def explain(
    captioner: Captioner, photo: Path, options: DecodingOptions | None = None, listener: WordListener | None = None
) -> Explanation:
    """Speak about a photo and lay out why. Raises ImageError for a photo that cannot be read."""
    image = load_image(photo)
    caption = captioner.caption(image, options)
    boundaries = token_boundaries(caption.tokens, caption.durations, captioner.vocabulary)
    maps = attention_maps(caption.attention, captioner.bundle.config.image.grid)
    edges = equal_stretches(int(boundaries[-1]))
    image.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    return Explanation(
        title=photo.name,
        photo=image,
        caption=caption,
        boundaries=boundaries,
        maps=maps,
        edges=edges,
        stretch_maps=attention_in_stretches(maps, boundaries, edges),
        words=listener.words(caption.waveform) if listener else None,
    )


def place_in_words(attention: FloatArray) -> tuple[str, float]:
    """attention float32 [rows, columns] -> where its strongest cell is ("top left"), and that cell's share of all."""
    rows, columns = attention.shape
    row, column = divmod(int(attention.argmax()), columns)
    down, across = _DOWN[_third(row, rows)], _ACROSS[_third(column, columns)]
    total = float(attention.sum())
    share = float(attention[row, column]) / total if total > 0 else 0.0
    return ("centre" if (down, across) == ("middle", "centre") else f"{down} {across}"), share


def _third(index: int, count: int) -> int:
    """In which third of `count` cells the middle of cell `index` lies: 0, 1 or 2."""
    return min(2, (2 * index + 1) * 3 // (2 * count))
