"""Plots of an explanation: waveform, spectrogram, units and words on one time axis, and the colours of heat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFont

from im2sp.arrays import FloatArray
from im2sp.captioner import SpeechCaption
from im2sp.explain.attention import AttentionTimeline
from im2sp.speech.audio import SAMPLE_RATE, UNIT_RATE
from im2sp.speech.whisper import TimedWord

WIDTH = 1600  # pixels of the time axis, whatever the length of the speech
_WAVEFORM, _SPECTROGRAM, _UNITS, _WORDS, _AXIS = 120, 200, 44, 60, 28  # pixels, heights
_WORD_LINE = 20  # pixels
_LABEL = 22  # pixels above each plot
_INK, _PAPER, _LINE = (24, 24, 27), (255, 255, 255), (0, 84, 166)
# Dark blue, violet, red, orange, pale yellow: grows lighter all the way, so it can be read without colours, too.
_HEAT = np.array([(12, 10, 50), (90, 20, 110), (190, 45, 75), (245, 130, 30), (252, 250, 170)], dtype=np.float32)

WINDOW, STEP, FFT = SAMPLE_RATE // 40, SAMPLE_RATE // 100, 512  # samples: 25 ms, 10 ms, the next power of two
RANGE = 70.0  # decibels below the loudest that a spectrogram shows

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Explanation:
    """A caption, when each part of it sounds, and where the model looked meanwhile."""

    title: str
    photo: Image.Image  # RGB
    caption: SpeechCaption
    timeline: AttentionTimeline
    words: tuple[TimedWord, ...] | None = None  # that a recogniser heard in the speech; None where none listened

    @property
    def frames(self) -> int:
        """Length of the speech in frames of 20 ms."""
        return int(self.timeline.boundaries[-1])


def plot_tracks(explanation: Explanation) -> Image.Image:
    """Plot waveform, spectrogram, units, words where there are any, and seconds on one time axis: RGB, WIDTH wide."""
    caption = explanation.caption
    words = () if explanation.words is None else (("words that a recogniser hears", _plot_words(explanation)),)
    return _stack(
        (
            ("waveform", _plot_waveform(caption.waveform)),
            ("spectrogram, 0 to 8 kHz", _plot_spectrogram(caption.waveform)),
            (f"{len(caption.units)} units", _plot_units(explanation)),
            *words,
            ("", _plot_axis(explanation.frames)),
        )
    )


def heat_colours(levels: Bytes) -> Bytes:
    """levels uint8 [H, W] -> colours uint8 [H, W, 3]."""
    places = np.linspace(0, 255, len(_HEAT))
    table = np.stack([np.interp(np.arange(256), places, _HEAT[:, channel]) for channel in range(3)], axis=1)
    return np.rint(table).astype(np.uint8)[levels]


def spectrogram(waveform: FloatArray) -> FloatArray:
    """waveform float32 [samples > 0], 16 kHz -> float32 [257 bins from 0 to 8 kHz, columns of 10 ms], from 0 to 1.

    1 is the loudest, 0 is RANGE decibels below it or less; column c is centred on sample c * STEP. Silence is all 0.
    """
    padded = np.pad(waveform, (WINDOW // 2, WINDOW - WINDOW // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: len(waveform) : STEP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), FFT)) ** 2 / FFT
    decibels = 10 * np.log10(power.T + 1e-20)
    return np.asarray(((decibels - max(decibels.max(), -100.0)) / RANGE + 1).clip(0, 1), dtype=np.float32)


def _plot_waveform(waveform: FloatArray) -> Image.Image:
    """Join the highest and the lowest sample behind each column by a line."""
    image = Image.new("RGB", (WIDTH, _WAVEFORM), _PAPER)
    draw = ImageDraw.Draw(image)
    edges = np.linspace(0, len(waveform), WIDTH + 1).astype(int)
    middle = (_WAVEFORM - 1) / 2
    loudest = max(float(np.abs(waveform).max(initial=0)), 1e-6)
    for x, (start, stop) in enumerate(pairwise(edges.tolist())):
        samples = waveform[start : max(stop, start + 1)] / loudest
        if samples.size:
            ends = [(x, middle - middle * float(samples.max())), (x, middle - middle * float(samples.min()))]
            draw.line(ends, fill=_LINE)
    return image


def _plot_spectrogram(waveform: FloatArray) -> Image.Image:
    levels = np.rint(spectrogram(waveform)[::-1] * 255).astype(np.uint8)
    grey = Image.fromarray(np.ascontiguousarray(levels)).resize((WIDTH, _SPECTROGRAM), Image.Resampling.BILINEAR)
    return Image.fromarray(heat_colours(np.asarray(grey)))


def _plot_units(explanation: Explanation) -> Image.Image:
    """Draw a block for each unit, coloured by its number, which is inside where it fits; a tick at each token."""
    caption, frames = explanation.caption, max(1, explanation.frames)
    image = Image.new("RGB", (WIDTH, _UNITS), _PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12)
    edges = np.concatenate([[0], np.cumsum(caption.durations)]) * WIDTH / frames
    for unit, left, right in zip(caption.units.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        hue = unit * 222.492 % 360  # the golden angle: neighbouring numbers are far apart
        draw.rectangle([left, 0, right - 1, _UNITS - 9], fill=ImageColor.getrgb(f"hsv({hue:.1f},45%,95%)"))
        if draw.textlength(str(unit), font) + 2 < right - left:
            draw.text(((left + right) / 2, (_UNITS - 8) / 2), str(unit), _INK, font, anchor="mm")
    for boundary in explanation.timeline.boundaries.tolist():
        x = min(boundary * WIDTH / frames, WIDTH - 1)
        draw.line([(x, _UNITS - 7), (x, _UNITS - 1)], fill=_INK)
    return image


def _plot_words(explanation: Explanation) -> Image.Image:
    """Write each word where it begins to sound, on the first line with room for it; a tick at its beginning."""
    image = Image.new("RGB", (WIDTH, _WORDS), _PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)
    seconds = max(1, explanation.frames) / UNIT_RATE
    ends = [0.0] * (_WORDS // _WORD_LINE)
    for word in explanation.words or ():
        x = min(word.start / seconds * WIDTH, WIDTH - 1)
        text = _one_line(word.text)
        left = max(0.0, min(x, WIDTH - draw.textlength(text, font)))
        line = next((number for number, end in enumerate(ends) if end <= left), int(np.argmin(ends)))
        draw.line([(x, 0), (x, 5)], fill=_INK)
        draw.text((left, 6 + line * _WORD_LINE), text, _INK, font)
        ends[line] = left + draw.textlength(text + " ", font)
    return image


def _plot_axis(frames: int) -> Image.Image:
    """Draw marks at every half second of short speech, further apart for longer."""
    image = Image.new("RGB", (WIDTH, _AXIS), _PAPER)
    draw = ImageDraw.Draw(image)
    seconds = frames / UNIT_RATE
    step = next((step for step in (0.5, 1, 2, 5, 10, 30, 60) if seconds / step <= 16), 300)
    for number in range(int(seconds / step) + 1):
        x = number * step / max(seconds, 1e-9) * WIDTH
        draw.line([(min(x, WIDTH - 1), 0), (min(x, WIDTH - 1), 6)], fill=_INK)
        anchor = "la" if number == 0 else "ra" if x > WIDTH - 40 else "ma"
        draw.text((x, 9), f"{number * step:g} s", _INK, ImageFont.load_default(14), anchor=anchor)
    return image


def _stack(parts: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Stack (label, plot) from top to bottom, each plot under its label where it has one."""
    heights = [image.height + (_LABEL if label else 6) for label, image in parts]
    whole = Image.new("RGB", (WIDTH, sum(heights)), _PAPER)
    draw = ImageDraw.Draw(whole)
    bottom = 0
    for (label, image), height in zip(parts, heights, strict=True):
        draw.text((0, bottom + _LABEL - 4), label, _INK, ImageFont.load_default(15), anchor="ls")
        whole.paste(image, (0, bottom + height - image.height))
        bottom += height
    return whole


def _one_line(text: str) -> str:
    """Return as much of a text as one line holds, "?" for characters that cannot be drawn."""
    return "".join(character if character.isprintable() else "?" for character in text)[:120]
