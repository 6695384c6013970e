"""Image units in, pictures out: what the units of photos still show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from im2sp.captioner import Captioner
from im2sp.errors import reason
from im2sp.files import replace_whole
from im2sp.image.stored import StoredPhotos
from im2sp.manifest import OutputError, folded, names_for

SUFFIX = ".reconstructed.png"  # so that no photo is overwritten by its own shadow


def write_reconstructions(photos: StoredPhotos, out: Path, captioner: Captioner) -> Iterator[Path]:
    """Write `out`/<name>.reconstructed.png for each photo; gives each path when it is written.

    Raises BundleError when the bundle has no image decoder, TableError, and OutputError when `out` cannot be written.
    """
    taken: set[str] = set()
    for photo in photos:
        picture = Image.fromarray(captioner.reconstruct(photo.units))
        path = out / next(name for name in names_for(os.path.abspath(photo.key), SUFFIX) if folded(name) not in taken)
        taken.add(folded(path.name))
        try:
            with replace_whole(path) as temporary:
                picture.save(temporary, "PNG")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({reason(error)})") from error
        yield path
