"""A folder, an HTML page or an EPUB in, its images out: what each one is, and how its bytes are read when needed."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from im2sp.describing.books import Book, open_book
from im2sp.describing.images import (
    MOST_IMAGES,
    PageImage,
    decode_data,
    find_images,
    is_data,
    is_remote,
    local_path,
)
from im2sp.describing.limits import MAX_PAGE_BYTES, DocumentError
from im2sp.describing.markup import read_text
from im2sp.errors import ImageError
from im2sp.images.finding import Photos
from im2sp.images.loading import ImageSource
from im2sp.sentences import reason

Kind = Literal["folder", "page", "book"]
State = Literal["to speak", "described", "decorative", "remote", "failed"]

_PAGE_SUFFIXES = frozenset((".html", ".htm", ".xhtml", ".xht"))


@dataclass(frozen=True)
class DocumentImage:
    """One image of a document, or why it is none."""

    page: str  # chapter of a book, name of a page; empty in a folder
    line: int  # of the page; 0 in a folder
    source: str  # as the page has it
    state: State
    text: str | None = None  # what describes it already
    error: str | None = None  # when it failed
    key: Path | None = None  # when it is to be spoken: what the journal calls it
    read: Callable[[], ImageSource] | None = None  # when it is to be spoken; raises ImageError


@dataclass(frozen=True)
class Document:
    """What was opened, and its images in order."""

    kind: Kind
    images: Iterator[DocumentImage]


@contextmanager
def open_document(path: Path) -> Iterator[Document]:
    """Open a folder of pictures, an HTML page or an EPUB. The images are found while they are iterated.

    Raises DocumentError, also while iterating: missing, of another kind, damaged, encrypted, too large.
    """
    if path.is_dir():
        yield Document("folder", _in_folder(path))
        return
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe could be read for ever
            raise DocumentError(f"{path}: is not an ordinary file")
        if path.suffix.lower() == ".epub":
            with open_book(path) as book:
                yield Document("book", _counted(path, _in_book(path, book)))
        elif path.suffix.lower() in _PAGE_SUFFIXES:
            if status.st_size > MAX_PAGE_BYTES:
                raise DocumentError(f"{path}: is larger than {MAX_PAGE_BYTES // 2**20} MiB, the limit for a page")
            data = path.read_bytes()
            yield Document("page", _counted(path, _in_page(path, data)))
        else:
            raise DocumentError(f"{path}: is not a folder, an HTML page (.html, .htm, .xhtml) or an EPUB (.epub)")
    except OSError as error:
        if error.filename and Path(error.filename) != path:  # of a wav or a report, while the document was open
            raise
        raise DocumentError(f"{path}: cannot be read ({reason(error)})") from error


def _in_folder(folder: Path) -> Iterator[DocumentImage]:
    for photo in Photos([folder]):
        source = str(photo.relative_to(folder))
        yield DocumentImage("", 0, source, "to speak", key=photo, read=partial(_itself, photo))


def _in_page(path: Path, data: bytes) -> Iterator[DocumentImage]:
    folder = path.parent.resolve()

    def locate(source: str) -> tuple[Path, Callable[[], ImageSource]]:
        file = _below(folder, local_path(source))
        return file, partial(_itself, file)

    for image in find_images(read_text(data), xml=path.suffix.lower() in (".xhtml", ".xht")):
        yield _located(path.name, path, image, locate)


def _in_book(path: Path, book: Book) -> Iterator[DocumentImage]:
    for chapter in book.chapters():
        try:
            text = read_text(book.read(chapter.name, MAX_PAGE_BYTES))
        except ImageError as error:
            yield DocumentImage(chapter.name, 0, "", "failed", error=f"the chapter cannot be read: {error}")
            continue

        def locate(source: str, chapter_name: str = chapter.name) -> tuple[Path, Callable[[], ImageSource]]:
            name = book.name_of(chapter_name, local_path(source))
            return path / name, partial(_named, book.read, name)

        for image in find_images(text, xml=chapter.is_xml):
            yield _located(chapter.name, path, image, locate)


def _located(
    page: str,
    document: Path,
    image: PageImage,
    locate: Callable[[str], tuple[Path, Callable[[], ImageSource]]],
) -> DocumentImage:
    """What becomes of an image element; `locate` finds the bytes of one that lies in the document's own files."""
    found = partial(DocumentImage, page, image.line, image.shown)
    if image.text is not None:
        return found("described", text=image.text)
    if image.decorative:
        return found("decorative")
    try:
        if is_data(image.source):
            digest = hashlib.sha256(image.source.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            key = Path(os.path.abspath(document), f"{document.stem}-data-{digest}")
            return found("to speak", key=key, read=partial(_data, image.source))
        if is_remote(image.source):
            return found("remote")
        key, read = locate(image.source)
    except ImageError as error:
        return found("failed", error=str(error))
    return found("to speak", key=key, read=read)


def _below(folder: Path, relative: str) -> Path:
    """The file of a relative path, links followed. Raises ImageError when it is none or lies outside the folder."""
    try:
        file = (folder / relative).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise ImageError(f"cannot be read ({reason(error)})") from error
    if not file.is_relative_to(folder):
        raise ImageError("leads out of the folder of the page, which is not followed")
    return file


def _counted(path: Path, images: Iterator[DocumentImage]) -> Iterator[DocumentImage]:
    for number, image in enumerate(images):
        if number == MOST_IMAGES:
            raise DocumentError(f"{path}: has more than {MOST_IMAGES:,} images, the limit for a document")
        yield image


def _itself(photo: Path) -> ImageSource:
    return photo


class _NamedBytes(io.BytesIO):
    """Bytes that error sentences can call by a name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def _named(read: Callable[[str], bytes], name: str) -> ImageSource:
    return _NamedBytes(read(name), name)


def _data(source: str) -> ImageSource:
    return _NamedBytes(decode_data(source), "the data in the page")
