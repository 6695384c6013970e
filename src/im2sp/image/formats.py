"""Kinds of picture files: the first bytes of a file in; its kind out, and what to do with kinds that are not read."""

from __future__ import annotations

import re
from importlib.util import find_spec

from im2sp.installing import install_command

HEAD_BYTES = 1_024  # that `kind_of` looks at

# Kinds that are read -> the module and the format of Pillow. JPEG covers MPO (several JPEGs in one file: the first
# counts). Formats that run other programs (EPS) or have seldom used decoders are left out on purpose.
READABLE = {
    "JPEG": ("PIL.JpegImagePlugin", "JPEG"),
    "PNG": ("PIL.PngImagePlugin", "PNG"),
    "WebP": ("PIL.WebPImagePlugin", "WEBP"),
    "GIF": ("PIL.GifImagePlugin", "GIF"),
    "BMP": ("PIL.BmpImagePlugin", "BMP"),
    "TIFF": ("PIL.TiffImagePlugin", "TIFF"),
    "AVIF": ("PIL.AvifImagePlugin", "AVIF"),
    "HEIC": ("pillow_heif", "HEIF"),
}
_CONVERT = "save it as JPEG or PNG first"
_REFUSED = {  # kinds that are not read -> what to do
    "HEIC": "{install}, or save it as JPEG first",
    "JPEG XL": _CONVERT,
    "JPEG 2000": _CONVERT,
    "camera RAW": "give the JPEG that the camera made, or develop it first",
    "SVG": "it is a drawing of lines; export it as PNG first",
    "Photoshop": _CONVERT,
    "icon": _CONVERT,
    "PDF": "it is a document; save the page as PNG first",
}
DOCUMENTS = frozenset({"PDF"})  # beside photos in a folder they are nothing to complain about

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\x01\0", "icon"),
    (b"%PDF-", "PDF"),
    (b"FUJIFILMCCD-RAW", "camera RAW"),
    (b"IIRO", "camera RAW"),
    (b"IIRS", "camera RAW"),
    (b"MMOR", "camera RAW"),
    (b"IIU\0", "camera RAW"),
    (b"FOVb", "camera RAW"),
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes
_RAW_SUFFIXES = frozenset(
    (".3fr", ".arw", ".cr2", ".dng", ".erf", ".iiq", ".mef", ".nef", ".nrw", ".pef", ".sr2", ".srw")
)


def kind_of(head: bytes, suffix: str = "") -> str | None:
    """Return the kind of a picture file by its first HEAD_BYTES bytes; None for what does not look like a picture.

    `suffix`: of the file's name, which alone tells the RAW files of many cameras from TIFF.
    """
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        return _kind_of_brands(head[8 : max(16, min(int.from_bytes(head[:4]), 128))])
    if head.startswith(_TIFF):
        return "camera RAW" if head[8:10] == b"CR" or suffix.lower() in _RAW_SUFFIXES else "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    text = head.lower()
    if text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and re.search(rb"<svg[\s>]", text) and b"<html" not in text:
        return "SVG"
    return None


def _kind_of_brands(brands: bytes) -> str | None:
    """Return the kind of a file of boxes (ISO 14496-12) by its main brand and the compatible ones."""
    if brands[:4] in (b"avif", b"avis"):
        return "AVIF"
    if brands[:4] == b"crx ":
        return "camera RAW"
    if brands[:4] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        return "AVIF" if b"avif" in brands else "HEIC"
    return None


def can_read(kind: str) -> bool:
    """Return whether pictures of that kind can be read."""
    return kind in READABLE and (kind != "HEIC" or find_spec("pillow_heif") is not None)


def readable_kinds() -> str:
    """Name the kinds that can be read."""
    *others, last = (kind for kind in READABLE if can_read(kind))
    return f"{', '.join(others)} or {last}"


def refusal(kind: str) -> str:
    """Return what to say of a picture of a kind that cannot be read, after its name."""
    advice = _REFUSED[kind].replace("{install}", install_command("heic"))
    return f"is {'an' if kind in ('SVG', 'icon') else 'a'} {kind} file, which im2sp does not read; {advice}"


def webp_canvas(head: bytes) -> tuple[int, int] | None:
    """Read width and height from the first 30 bytes of a WebP file; None for a damaged one.

    Pillow hands WebP to a decoder that takes memory for the canvas on opening, before its size can be asked.
    """
    if len(head) < 30:
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L":
        packed = int.from_bytes(head[21:25], "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return None
