"""The images of a page: which of them lack a description, and where each comes from."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from im2sp.describing.markup import Tag, start_tags
from im2sp.errors import ImageError
from im2sp.images.loading import MAX_FILE_BYTES
from im2sp.sentences import reason

RULE = (
    "An image is described by an alt attribute with text in it, or by aria-label or aria-labelledby. It is decorative "
    'with alt="" (empty, nothing between the quotes), role="presentation", role="none" or aria-hidden="true". All '
    "others lack a description and are spoken: those without alt, and those whose alt is blanks only."
)
MOST_IMAGES = 10_000  # of one document
_SHOWN = 200  # characters of a source in a report


@dataclass(frozen=True)
class PageImage:
    """An image element."""

    source: str  # as it stands in the page, joined with the page's base
    line: int
    text: str | None  # what describes it; None where nothing does
    decorative: bool

    @property
    def shown(self) -> str:
        """The source for people: data is named, not printed."""
        if is_data(self.source):
            return f"{self.source[:40].partition(',')[0]},... ({len(self.source):,} characters)"
        return self.source if len(self.source) <= _SHOWN else f"{self.source[:_SHOWN]}..."


def find_images(text: str, *, xml: bool = False) -> Iterator[PageImage]:
    """The `<img>` elements of a page, in order, by RULE."""
    base = ""
    for tag in start_tags(text, xml=xml):
        if tag.name == "base" and not base:
            base = tag.attributes.get("href", "").strip()
        elif tag.name == "img":
            text_of, decorative = _description(tag)
            yield PageImage(_joined(base, _source(tag)), tag.line, text_of, decorative)


def is_remote(source: str) -> bool:
    """Whether it lies on another machine."""
    return _parts(source)[0] in ("http", "https", "ftp", "ftps") or source.replace("\\", "/").startswith("//")


def is_data(source: str) -> bool:
    """Whether the image stands in the page itself."""
    return source[:5].lower() == "data:"


def local_path(source: str) -> str:
    """The relative path of a source that names one, decoded. Raises ImageError for all others."""
    scheme, path = _parts(source)
    if scheme:
        raise ImageError(f"{scheme}: addresses are not followed")
    path = unquote(path)
    if not path:
        raise ImageError("the image has no source")
    if path.startswith(("/", "\\")):
        raise ImageError("absolute paths are not followed, only those below the folder of the page")
    if "\0" in path:
        raise ImageError("the path holds a zero byte")
    return path


def decode_data(source: str) -> bytes:
    """The bytes of a data: address, at most MAX_FILE_BYTES. Raises ImageError."""
    kind, comma, data = source[5:].partition(",")
    if not comma or not kind.strip().lower().startswith("image/"):
        raise ImageError(f"the data is not an image but {kind.strip()[:40] or 'of no kind'}")
    if len(data) > MAX_FILE_BYTES * 4 // 3:
        raise ImageError(f"the data is larger than {MAX_FILE_BYTES // 2**20} MiB, the limit for a picture file")
    plain = unquote_to_bytes(data)
    if not kind.rstrip().lower().endswith(";base64"):
        return plain
    try:
        return base64.b64decode(re.sub(rb"\s+", b"", plain), validate=True)
    except binascii.Error as error:
        raise ImageError(f"the data is not base64 ({reason(error)})") from error


def _description(tag: Tag) -> tuple[str | None, bool]:
    alt = tag.attributes.get("alt")
    named = tag.attributes.get("aria-label", "").strip() or tag.attributes.get("aria-labelledby", "").strip()
    if alt is not None and alt.strip():
        return alt.strip(), False
    if named:
        return named, False
    hidden = tag.attributes.get("aria-hidden", "").strip().lower() == "true"
    role = tag.attributes.get("role", "").strip().lower()
    return None, alt == "" or hidden or role in ("presentation", "none")


def _source(tag: Tag) -> str:
    """src, or the first candidate of srcset."""
    source = tag.attributes.get("src", "").strip()
    candidates = tag.attributes.get("srcset", "").split()
    return source or (candidates[0].rstrip(",") if candidates else "")


def _joined(base: str, source: str) -> str:
    try:
        return urljoin(base, source) if base and source and not is_data(source) else source
    except ValueError:  # such as an unfinished IPv6 address
        return source


def _parts(source: str) -> tuple[str, str]:
    """(scheme in lower case, path) of a source."""
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise ImageError(f"the source is not an address ({reason(error)})") from error
    return parts.scheme, parts.path
