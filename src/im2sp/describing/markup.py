"""HTML or XML text in, its start tags out, in one pass that takes time in proportion to the length of the text.

Pages come from outside. `html.parser` of Python 3.11 takes a minute and a half for 200 kB of `<!--`, and more than
proportionally longer for more; here whatever is opened and never closed ends the page, as the HTML standard has it.
Entities that a document defines itself are never expanded, so XML cannot grow while it is read.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = re.compile(r"[a-zA-Z][^\s/>]*")
_ATTRIBUTE = re.compile(
    r"[\s/]*(?:(?P<end>>)|(?P<name>[^\s/>=][^\s/>=]*)(?:\s*=\s*(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'"
    r"|(?P<bare>[^\s>]*)))?|(?P<stray>=))"
)
_RAW = frozenset(("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"))  # hold no tags
_RAW_ENDS = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _RAW}
_CHARSET = re.compile(rb"(?:charset|encoding)\s*=\s*[\"']?\s*([a-zA-Z0-9_.:-]+)", re.IGNORECASE)
_CHARSET_WITHIN = 1024  # bytes, as browsers have it
# What pages are really written in. Python knows more, among them codecs that are slow or no text at all.
_ENCODINGS = frozenset(
    ("utf-8", "ascii", "iso8859-1", "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-9", "iso8859-15", "cp1250",
     "cp1251", "cp1252", "cp1253", "cp1254", "cp1257", "koi8-r", "koi8-u", "gbk", "gb2312", "gb18030", "big5",
     "shift_jis", "cp932", "euc_jp", "euc_kr")
)  # fmt: skip
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True)
class Tag:
    """A start tag."""

    name: str  # lower case, without the prefix of a namespace
    attributes: dict[str, str]  # names in lower case; the first counts where one is given twice
    line: int  # from 1


def read_text(data: bytes) -> str:
    """The bytes of a page as text: by its byte order mark, else by the encoding that it names, else UTF-8."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    named = _CHARSET.search(data[:_CHARSET_WITHIN])
    try:
        encoding = codecs.lookup(named[1].decode("ascii")).name if named else "utf-8"
    except LookupError:
        encoding = "utf-8"
    return data.decode(encoding if encoding in _ENCODINGS else "utf-8", "replace")


def start_tags(text: str, *, xml: bool = False) -> Iterator[Tag]:
    """Each start tag in order; not those inside comments, scripts and other elements whose content is text.

    `xml`: `<script/>` is complete, as in XHTML; CDATA sections are text.
    """
    position, line, counted = 0, 1, 0
    while (start := text.find("<", position)) >= 0:
        name = _NAME.match(text, start + 1)
        if name is None:
            position = _after_other(text, start, xml)
            if position < 0:
                return
            continue
        line += text.count("\n", counted, start)
        counted = start
        found = _attributes(text, name.end())
        if found is None:
            return
        attributes, position = found
        local = name[0].rpartition(":")[2].lower()
        yield Tag(local, attributes, line)
        if local in _RAW and not (xml and text[position - 2] == "/"):
            end = _RAW_ENDS[local].search(text, position)
            if end is None:
                return
            position = end.start()


def _after_other(text: str, start: int, xml: bool) -> int:
    """Where what begins with `<` at `start`, but is no start tag, ends; -1 where it never does."""
    if text.startswith("<!--", start):
        end = "-->"
        found = text.find(end, start + 2)  # `<!-->` is a whole comment
    elif xml and text.startswith("<![CDATA[", start):
        end = "]]>"
        found = text.find(end, start)
    elif text.startswith(("<!", "</", "<?"), start):
        end = ">"
        found = text.find(end, start)
    else:
        return start + 1  # a `<` that is text
    return found + len(end) if found >= 0 else -1


def _attributes(text: str, position: int) -> tuple[dict[str, str], int] | None:
    """The attributes of a tag from `position` on, and where the tag ends; None where it never does."""
    attributes: dict[str, str] = {}
    while found := _ATTRIBUTE.match(text, position):
        position = found.end()
        if found["end"]:
            return attributes, position
        if found["name"]:
            value = next((found[kind] for kind in ("double", "single", "bare") if found[kind] is not None), "")
            attributes.setdefault(found["name"].lower(), html.unescape(value))
    return None
