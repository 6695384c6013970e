"""An explanation in, one HTML page out that needs nothing else: photo, sound, style and script are inside."""

from __future__ import annotations

import base64
import html
import io
import json
from importlib import resources
from string import Template

import numpy as np
from PIL import Image

from im2sp.explain.drawing import draw_tracks, heat_colours
from im2sp.explain.explanation import Explanation, place_in_words
from im2sp.speech.audio import UNIT_RATE, encode_wav
from im2sp.webpages import policy_hash, printable

_COLOURS = 64  # steps of the heat


def draw_page(explanation: Explanation) -> str:
    """The page, as text in UTF-8. Its policy allows its own style and script, by their hashes, and nothing outside."""
    style, script = _static("explanation.css"), _static("explanation.js")
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src {policy_hash(style)}; "
        f"script-src {policy_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    caption, seconds = explanation.caption, int(explanation.boundaries[-1]) / UNIT_RATE
    rows, columns = explanation.maps.shape[1:]
    summary = (
        f"{seconds:.1f} seconds of speech, {len(caption.units)} units in {len(caption.tokens)} tokens, "
        f"mean log probability of a token {caption.score:.2f}."
    )
    return Template(_static("explanation.html")).substitute(
        policy=policy,
        title=html.escape(printable(explanation.title)),
        style=style,
        script=script,
        summary=summary,
        photo=_picture_uri(explanation.photo, "JPEG", quality=88),
        photo_width=explanation.photo.width,
        photo_height=explanation.photo.height,
        rows=rows,
        columns=columns,
        seconds=f"{seconds:.1f}",
        milliseconds=round(seconds * 1000),
        tracks=_picture_uri(draw_tracks(explanation), "PNG", optimize=True),
        audio=_uri("audio/wav", encode_wav(caption.waveform)),
        heard=_heard(explanation),
        words_head='<th scope="col">Words that the recogniser heard</th>' if explanation.words is not None else "",
        stretches=_table(explanation),
        data=_json(explanation),
    )


def _heard(explanation: Explanation) -> str:
    """A paragraph with the recogniser's words; nothing where none listened."""
    if explanation.words is None:
        return ""
    words = html.escape(printable(" ".join(word.text for word in explanation.words)))
    said = f"<q>{words}</q>." if words else "no words."
    return f'<p id="heard">A speech recogniser, which did not see the photo, hears {said}</p>'


def _table(explanation: Explanation) -> str:
    """A table row for each stretch: when, where, how much, and the units, and words, that begin in it."""
    caption = explanation.caption
    begins = np.cumsum(caption.durations) - caption.durations
    edges = explanation.edges.tolist()
    lines = []
    for start, stop, attention in zip(edges[:-1], edges[1:], explanation.stretch_maps, strict=True):
        place, share = place_in_words(attention)
        units = " ".join(map(str, caption.units[(begins >= start) & (begins < stop)].tolist()))
        cells = f"<td>{place}</td><td>{share:.0%}</td><td>{units}</td>"
        if explanation.words is not None:
            heard = [word.text for word in explanation.words if start <= word.start * UNIT_RATE < stop]
            cells += f"<td>{html.escape(printable(' '.join(heard)))}</td>"
        times = f"<td>{start / UNIT_RATE:.1f} s</td><td>{stop / UNIT_RATE:.1f} s</td>"
        lines.append(f"<tr>{times}{cells}</tr>")
    return "\n".join(lines)


def _json(explanation: Explanation) -> str:
    """What the script shows, safe inside a script element: no text in it can end that."""
    levels = np.linspace(0, 255, _COLOURS).round().astype(np.uint8)
    values = {
        "boundaries": (explanation.boundaries / UNIT_RATE).tolist(),
        "edges": (explanation.edges / UNIT_RATE).tolist(),
        "maps": explanation.maps.reshape(len(explanation.maps), -1).astype(float).round(5).tolist(),
        "stretches": explanation.stretch_maps.reshape(len(explanation.stretch_maps), -1)
        .astype(float)
        .round(5)
        .tolist(),
        "words": [place_in_words(attention)[0] for attention in explanation.stretch_maps],
        "colours": heat_colours(levels[None])[0].tolist(),
    }
    return json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")


def _static(name: str) -> str:
    return resources.files("im2sp.explain").joinpath("static", name).read_text(encoding="utf-8")


def _picture_uri(image: Image.Image, kind: str, **options: int) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return _uri(f"image/{kind.lower()}", file.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
