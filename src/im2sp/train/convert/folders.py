"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from im2sp.errors import Im2SpError, reason


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; move it there when the block succeeds, delete it otherwise.

    Raises:
        Im2SpError: there is something at `path` already, or nothing can be written there.
    """
    if path.exists():
        raise Im2SpError(f"{path} exists already: give the name of a new folder, or delete it")
    staging = path.with_name(f".{path.name}.part")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        staging.rename(path)
    except OSError as error:
        raise Im2SpError(f"{path} cannot be written: {reason(error)}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
