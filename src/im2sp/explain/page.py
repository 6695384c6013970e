"""Pages of explanations: photos in; <name>.explained.html, which needs nothing else, out."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from im2sp.captioner import Captioner
from im2sp.confidence import share_in_words
from im2sp.decoding.options import DecodingOptions
from im2sp.embedding import data_uri, picture_uri
from im2sp.errors import ImageError, OutputError, reason
from im2sp.explain.attention import AttentionTimeline, describe_peak, rounded_rows, segment_attention
from im2sp.explain.plots import Explanation, heat_colours, plot_tracks
from im2sp.files import atomic_write
from im2sp.image.loading import load_image, seen_part
from im2sp.manifest import FileNames
from im2sp.speech.audio import UNIT_RATE, encode_wav
from im2sp.speech.whisper import WordRecogniser

PHOTO_SIDE = 960  # pixels, the longer side of the photo on a page
SUFFIX = ".explained.html"  # of its own, so that OUT may be the folder of the photos: photo.png stays what it is
_COLOURS = 64  # steps of the heat


def explain(
    captioner: Captioner,
    photo: Path,
    options: DecodingOptions | None = None,
    recogniser: WordRecogniser | None = None,
) -> Explanation:
    """Caption a photo and lay out why. Raises ImageError for a photo that cannot be read."""
    image = load_image(photo)
    options = replace(options or captioner.default_options, always_speak=True)  # it is the caption that is explained
    caption = captioner.caption(image, options)
    image.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    words = recogniser.words(caption.waveform) if recogniser else None
    size = captioner.bundle.config.image
    image = seen_part(image, size.height, size.width, size.shorter_side)  # which the maps cover
    return Explanation(photo.name, image, caption, AttentionTimeline.of(caption, captioner), words)


def write_explanations(
    photos: Iterable[Path],
    out: Path,
    captioner: Captioner,
    options: DecodingOptions | None = None,
    recogniser: WordRecogniser | None = None,
) -> Iterator[Path | ImageError]:
    """Explain each photo in `out`; yield the page of each, or why the photo could not be read.

    Two photos of one name get two pages, one with a hash of the photo's path; pages of an earlier run are replaced.
    Raises OutputError when the folder cannot be written.
    """
    names = FileNames()
    for photo in photos:
        try:
            explanation = explain(captioner, photo, options, recogniser)
        except ImageError as error:
            yield error
            continue
        page = out / names.name(os.path.abspath(photo), SUFFIX)
        text = render_page(explanation)
        try:
            with atomic_write(page) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise OutputError(f"{page}: cannot be written ({reason(error)})") from error
        yield page


def render_page(explanation: Explanation) -> str:
    """Render an HTML page. Its policy allows its own style and script, by their hashes, and nothing from outside."""
    style, script = _static("explanation.css"), _static("explanation.js")
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src {_policy_hash(style)}; "
        f"script-src {_policy_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    caption, seconds = explanation.caption, explanation.frames / UNIT_RATE
    rows, columns = explanation.timeline.maps.shape[1:]
    summary = (
        f"{seconds:.1f} seconds of speech, {len(caption.units)} units in {len(caption.tokens)} token"
        f"{'' if len(caption.tokens) == 1 else 's'}, "
        f"mean log probability of a token {caption.score:.2f}."
    )
    if caption.confidence is not None:
        summary += f" {share_in_words(caption.confidence).capitalize()}."
    return Template(_static("explanation.html")).substitute(
        policy=policy,
        title=_escape(explanation.title),
        style=style,
        script=script,
        summary=summary,
        photo=picture_uri(explanation.photo, "JPEG", quality=88),
        photo_width=explanation.photo.width,
        photo_height=explanation.photo.height,
        rows=rows,
        columns=columns,
        seconds=f"{seconds:.1f}",
        milliseconds=round(seconds * 1000),
        tracks=picture_uri(plot_tracks(explanation), "PNG", optimize=True),
        audio=data_uri("audio/wav", encode_wav(caption.waveform)),
        heard=_transcript(explanation),
        words_head='<th scope="col">Heard</th>' if explanation.words is not None else "",
        segments=_table(explanation),
        data=_json(explanation),
    )


def _transcript(explanation: Explanation) -> str:
    if explanation.words is None:
        return ""
    words = _escape(" ".join(word.text for word in explanation.words))
    heard = f"hears: <q>{words}</q>" if words else "hears no words."
    return f'<p id="heard">A speech recogniser, which did not see the photo, {heard}</p>'


def _table(explanation: Explanation) -> str:
    """Return a table row for each segment: when, where, how much, and the units and words that begin in it."""
    caption, timeline = explanation.caption, explanation.timeline
    starts = np.cumsum(caption.durations) - caption.durations
    edges = timeline.edges.tolist()
    lines = []
    for start, stop, attention in zip(edges[:-1], edges[1:], timeline.segment_maps, strict=True):
        place, share = describe_peak(attention)
        units = caption.units[(starts >= start) & (starts < stop)].tolist()
        cells = [f"{start / UNIT_RATE:.1f} s", f"{stop / UNIT_RATE:.1f} s", place, f"{share:.0%}"]
        if explanation.words is not None:
            heard = [word.text for word in explanation.words if start <= word.start * UNIT_RATE < stop]
            cells.append(_escape(" ".join(heard)))
        cells.append(" ".join(map(str, units)))
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return "\n".join(lines)


def _json(explanation: Explanation) -> str:
    """Return what the script shows, safe inside a script element: no text in it can end that."""
    timeline, levels = explanation.timeline, np.linspace(0, 255, _COLOURS).round().astype(np.uint8)
    values = timeline.described()
    if explanation.words:  # the heat follows words rather than tokens, which nobody can tell apart
        starts = [round(word.start * UNIT_RATE) for word in explanation.words[1:]]
        boundaries = np.array([0, *starts, explanation.frames]).clip(0, explanation.frames)
        values["boundaries"] = (boundaries / UNIT_RATE).tolist()
        values["maps"] = rounded_rows(segment_attention(timeline.maps, timeline.boundaries, boundaries))
    values["words"] = [word.text for word in explanation.words or ()]
    values["colours"] = heat_colours(levels[None])[0].tolist()
    return json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")


def _escape(text: str) -> str:
    """Return HTML for a text such as a file name, which may have surrogates that cannot be written as UTF-8."""
    return html.escape(text.encode("utf-8", "replace").decode())


def _policy_hash(text: str) -> str:
    """Return how a Content-Security-Policy names an inline style or script: by its SHA-256."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _static(name: str) -> str:
    return resources.files("im2sp.explain").joinpath("static", name).read_text(encoding="utf-8")
