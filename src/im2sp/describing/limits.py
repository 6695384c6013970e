"""What a document may be at most, and the error about one that is not."""

from __future__ import annotations

from im2sp.errors import Im2SpError

MAX_PAGE_BYTES = 32 * 2**20  # of an HTML page or a chapter, images inside it included
MAX_BOOK_BYTES = 2**30  # of an EPUB file
MAX_BOOK_UNPACKED = 4 * 2**30  # bytes of all its files together
MAX_BOOK_FILES = 10_000
MAX_BOOK_DIRECTORY = 4 * 2**20  # bytes of the list of its files, which zipfile reads in one piece
MAX_RATIO = 200  # unpacked size over packed size; text reaches 20
RATIO_FROM = 2**20  # bytes, unpacked; what is smaller does no harm


class DocumentError(Im2SpError):
    """A document that cannot be read or is refused."""
