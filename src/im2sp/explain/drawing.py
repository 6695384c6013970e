"""An explanation in, pictures out: the tracks on one time axis, the heat over the photo, and all of it on one sheet."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from im2sp.arrays import FloatArray
from im2sp.explain.explanation import Explanation
from im2sp.explain.spectrogram import spectrogram
from im2sp.speech.audio import UNIT_RATE

TRACK_WIDTH = 1600  # pixels of the time axis, whatever the length of the speech
MARGIN = 16  # pixels
_WAVE, _SPECTRUM, _UNITS, _AXIS = 120, 200, 44, 28  # pixels, heights from top to bottom
_WORDS, _WORD_LINE = 60, 20  # pixels
_LABEL = 22  # pixels above each track
_PHOTO_HEIGHT = 480  # pixels of the photo on the sheet
_INK, _PAPER, _LINE = (24, 24, 27), (255, 255, 255), (0, 84, 166)
# Dark blue, violet, red, orange, pale yellow: grows lighter all the way, so it can be read without colours, too.
_HEAT = np.array([(12, 10, 50), (90, 20, 110), (190, 45, 75), (245, 130, 30), (252, 250, 170)], dtype=np.float32)

Bytes = npt.NDArray[np.uint8]


def draw_tracks(explanation: Explanation) -> Image.Image:
    """Waveform, spectrogram, units, words where there are any, and seconds below each other: RGB, TRACK_WIDTH wide."""
    caption = explanation.caption
    words = () if explanation.words is None else (("words that a recogniser hears", _words(explanation)),)
    parts = (
        ("waveform", _wave(caption.waveform)),
        ("spectrogram, 0 to 8 kHz", _spectrum(caption.waveform)),
        (f"{len(caption.units)} units", _units(explanation)),
        *words,
        ("", _axis(int(explanation.boundaries[-1]))),
    )
    return _stacked(TRACK_WIDTH, parts)


def draw_heat(photo: Image.Image, attention: FloatArray) -> Image.Image:
    """attention float32 [rows, columns] over a photo: dimmed where the model looked least, bright where most."""
    highest = float(attention.max())
    grey = np.rint(attention / highest * 255 if highest > 0 else attention * 0).astype(np.uint8)
    smooth = Image.fromarray(grey).resize(photo.size, Image.Resampling.BICUBIC)
    return Image.blend(photo, Image.fromarray(heat_colours(np.asarray(smooth))), 0.55)


def draw_sheet(explanation: Explanation) -> Image.Image:
    """The whole explanation as one picture: photo, heat of each stretch above its time, and the tracks; RGB."""
    photo = explanation.photo
    width, height = _fitted(photo.size, TRACK_WIDTH, _PHOTO_HEIGHT)
    top = Image.new("RGB", (TRACK_WIDTH, height), _PAPER)
    top.paste(photo.resize((width, height)), (0, 0))
    parts = (
        (_printable(explanation.title), top),
        ("where the model looked in each stretch of the speech below", _stretches(explanation)),
        ("", draw_tracks(explanation)),
    )
    body = _stacked(TRACK_WIDTH, parts)
    sheet = Image.new("RGB", (body.width + 2 * MARGIN, body.height + 2 * MARGIN), _PAPER)
    sheet.paste(body, (MARGIN, MARGIN))
    return sheet


def _stretches(explanation: Explanation) -> Image.Image:
    frames = max(1, int(explanation.edges[-1]))
    lefts = (explanation.edges * TRACK_WIDTH // frames).tolist()
    widest = TRACK_WIDTH // len(explanation.stretch_maps) - 8
    size = _fitted(explanation.photo.size, widest, _PHOTO_HEIGHT // 2)
    small = explanation.photo.resize(size)
    row = Image.new("RGB", (TRACK_WIDTH, size[1]), _PAPER)
    for left, attention in zip(lefts, explanation.stretch_maps, strict=False):
        row.paste(draw_heat(small, attention), (left, 0))
    return row


def _wave(waveform: FloatArray) -> Image.Image:
    """The highest and the lowest sample behind each column, joined by a line."""
    image = Image.new("RGB", (TRACK_WIDTH, _WAVE), _PAPER)
    draw = ImageDraw.Draw(image)
    edges = np.linspace(0, len(waveform), TRACK_WIDTH + 1).astype(int)
    middle = (_WAVE - 1) / 2
    loudest = max(float(np.abs(waveform).max(initial=0)), 1e-6)
    for x, (start, stop) in enumerate(pairwise(edges.tolist())):
        samples = waveform[start : max(stop, start + 1)] / loudest
        if samples.size:
            ends = [(x, middle - middle * float(samples.max())), (x, middle - middle * float(samples.min()))]
            draw.line(ends, fill=_LINE)
    return image


def _spectrum(waveform: FloatArray) -> Image.Image:
    levels = np.rint(spectrogram(waveform)[::-1] * 255).astype(np.uint8)
    grey = Image.fromarray(np.ascontiguousarray(levels)).resize((TRACK_WIDTH, _SPECTRUM), Image.Resampling.BILINEAR)
    return Image.fromarray(heat_colours(np.asarray(grey)))


def _units(explanation: Explanation) -> Image.Image:
    """A block for each unit, its colour by its number, its number inside where there is room; a tick at each token."""
    caption, frames = explanation.caption, max(1, int(explanation.boundaries[-1]))
    image = Image.new("RGB", (TRACK_WIDTH, _UNITS), _PAPER)
    draw = ImageDraw.Draw(image)
    font = _font(12)
    edges = np.concatenate([[0], np.cumsum(caption.durations)]) * TRACK_WIDTH / frames
    for unit, left, right in zip(caption.units.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        draw.rectangle([left, 0, right - 1, _UNITS - 9], fill=_unit_colour(unit))
        if draw.textlength(str(unit), font) + 2 < right - left:
            draw.text(((left + right) / 2, (_UNITS - 8) / 2), str(unit), _INK, font, anchor="mm")
    for boundary in explanation.boundaries.tolist():
        x = min(boundary * TRACK_WIDTH / frames, TRACK_WIDTH - 1)
        draw.line([(x, _UNITS - 7), (x, _UNITS - 1)], fill=_INK)
    return image


def _words(explanation: Explanation) -> Image.Image:
    """Each word where it begins to sound, on the first line on which there is room for it; a tick at its beginning."""
    image = Image.new("RGB", (TRACK_WIDTH, _WORDS), _PAPER)
    draw = ImageDraw.Draw(image)
    font = _font(15)
    seconds = max(1, int(explanation.boundaries[-1])) / UNIT_RATE
    ends = [0.0] * (_WORDS // _WORD_LINE)
    for word in explanation.words or ():
        x = min(word.start / seconds * TRACK_WIDTH, TRACK_WIDTH - 1)
        text = _printable(word.text)
        left = max(0.0, min(x, TRACK_WIDTH - draw.textlength(text, font)))
        line = next((number for number, end in enumerate(ends) if end <= left), int(np.argmin(ends)))
        draw.line([(x, 0), (x, 5)], fill=_INK)
        draw.text((left, 6 + line * _WORD_LINE), text, _INK, font)
        ends[line] = left + draw.textlength(text + " ", font)
    return image


def _axis(frames: int) -> Image.Image:
    """Marks at every half second of short speech, further apart for longer."""
    image = Image.new("RGB", (TRACK_WIDTH, _AXIS), _PAPER)
    draw = ImageDraw.Draw(image)
    seconds = frames / UNIT_RATE
    step = next((step for step in (0.5, 1, 2, 5, 10, 30, 60) if seconds / step <= 16), 300)
    for number in range(int(seconds / step) + 1):
        x = number * step / max(seconds, 1e-9) * TRACK_WIDTH
        draw.line([(min(x, TRACK_WIDTH - 1), 0), (min(x, TRACK_WIDTH - 1), 6)], fill=_INK)
        anchor = "la" if number == 0 else "ra" if x > TRACK_WIDTH - 40 else "ma"
        draw.text((x, 9), f"{number * step:g} s", _INK, _font(14), anchor=anchor)
    return image


def _stacked(width: int, parts: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures below each other, each under its label where it has one."""
    heights = [image.height + (_LABEL if label else 6) for label, image in parts]
    whole = Image.new("RGB", (width, sum(heights)), _PAPER)
    draw = ImageDraw.Draw(whole)
    bottom = 0
    for (label, image), height in zip(parts, heights, strict=True):
        draw.text((0, bottom + _LABEL - 4), label, _INK, _font(15), anchor="ls")
        whole.paste(image, (0, bottom + height - image.height))
        bottom += height
    return whole


def heat_colours(levels: Bytes) -> Bytes:
    """levels uint8 [H, W] -> colours uint8 [H, W, 3]."""
    places = np.linspace(0, 255, len(_HEAT))
    table = np.stack([np.interp(np.arange(256), places, _HEAT[:, channel]) for channel in range(3)], axis=1)
    return np.rint(table).astype(np.uint8)[levels]


def _unit_colour(unit: int) -> tuple[int, int, int]:
    """Neighbouring numbers far apart in hue, all light enough for dark letters."""
    red, green, blue = colorsys.hsv_to_rgb(unit * 0.618034 % 1, 0.45, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _fitted(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """The largest size of the same shape inside width x height, at least one pixel a side."""
    scale = min(width / size[0], height / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _printable(title: str) -> str:
    """The name as far as one line of the sheet holds it; what has no letter form would not be drawn."""
    return "".join(character if character.isprintable() else "?" for character in title)[:120]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
