"""Optional libraries: an import that fails becomes one sentence that says what to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from im2sp.errors import Im2SpError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports: a missing library raises Im2SpError, naming the extra that brings it."""
    try:
        yield
    except ImportError as error:
        missing = error.name or str(error)
        raise Im2SpError(f"{missing} is not installed: run pip install 'im2sp[{extra}]'") from error
