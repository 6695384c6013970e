"""What became of each image of a document in, report.json and report.html in the folder of the speech out."""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from im2sp.describing.images import RULE
from im2sp.files import replace_whole
from im2sp.journal import OutputError
from im2sp.sentences import reason
from im2sp.webpages import policy_hash, printable

REPORT = "report.json", "report.html"

_MEANINGS = {
    "spoken": "lacked a description; its speech is in this folder",
    "described": "has a description already",
    "decorative": "is marked as decoration",
    "remote": "lies on another machine; it is never fetched",
    "failed": "lacks a description and could not be spoken",
}
_HEADINGS = "".join(f'<th scope="col">{heading}</th>' for heading in ("Image", "Where", "State", "What it got"))
_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.4rem 0.8rem 0.4rem 0; border-bottom: 1px solid #71717a; }
td { overflow-wrap: anywhere; }
audio { max-width: 100%; }
"""


@dataclass(frozen=True)
class Entry:
    """One line of the report."""

    page: str  # chapter of a book, name of a page; empty in a folder
    line: int  # of the page; 0 in a folder
    source: str  # of the image, as the page has it
    state: str  # spoken, described, decorative, remote or failed
    text: str | None = None  # what described it already
    wav: str | None = None  # name of the speech in this folder
    error: str | None = None  # why it failed


def count_states(entries: Sequence[Entry]) -> dict[str, int]:
    """How many images each state has, all states named."""
    counts = Counter(entry.state for entry in entries)
    return {state: counts[state] for state in _MEANINGS}


def write_report(folder: Path, document: Path, kind: str, entries: Sequence[Entry]) -> Path:
    """Write both files, whole or not at all; gives the path of report.html. Raises OutputError."""
    values = {
        "document": printable(os.path.abspath(document)),
        "kind": kind,
        "rule": RULE,
        "counts": count_states(entries),
        "images": [asdict(entry) for entry in entries],
    }
    texts = json.dumps(values, indent=1) + "\n", _page(document, entries)
    for name, text in zip(REPORT, texts, strict=True):
        try:
            with replace_whole(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise OutputError(f"{folder / name}: cannot be written ({reason(error)})") from error
    return folder / REPORT[1]


def _page(document: Path, entries: Sequence[Entry]) -> str:
    policy = f"default-src 'none'; style-src {policy_hash(_STYLE)}; media-src 'self' file:; base-uri 'none'"
    name = _escaped(document.name or str(document))
    counts = "".join(
        f"<li>{number} {state}: {_MEANINGS[state]}</li>\n" for state, number in count_states(entries).items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Images of {name}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Images of {name}</h1>
<ul>
{counts}</ul>
<p>{html.escape(RULE)}</p>
<table>
<thead><tr>{_HEADINGS}</tr></thead>
<tbody>
{"".join(map(_row, entries))}</tbody>
</table>
</main>
</body>
</html>
"""


def _row(entry: Entry) -> str:
    where = f"{entry.page}, line {entry.line}" if entry.line else entry.page
    return (
        f'<tr><th scope="row">{_escaped(entry.source)}</th><td>{_escaped(where)}</td>'
        f"<td>{entry.state}</td><td>{_got(entry)}</td></tr>\n"
    )


def _got(entry: Entry) -> str:
    if entry.wav:
        address = quote(os.fsencode(entry.wav))
        label = html.escape(f"Speech about {entry.source}", quote=True).encode("utf-8", "replace").decode()
        player = f'<audio controls preload="none" src="{address}" aria-label="{label}"></audio>'
        return f'{player} <a href="{address}">{_escaped(entry.wav)}</a>'
    return _escaped(entry.text or entry.error or "")


def _escaped(text: str) -> str:
    return html.escape(printable(text))
