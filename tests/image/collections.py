"""Small collections: photos of noise in folders, tars and tables."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(seed: int, size: int = 40) -> bytes:
    """Return a PNG of noise."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_photos(folder: Path, count: int) -> Path:
    """Write a folder of photos 00.png, 01.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        (folder / f"{seed:02d}.png").write_bytes(picture(seed))
    return folder


def write_tar(path: Path, members: Mapping[str, bytes], **header: Any) -> Path:
    """Write a tar with these members."""
    with tarfile.open(path, "w", **header) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_table(path: Path, columns: Mapping[str, Any], **options: Any) -> Path:
    """Write a Parquet table with these columns."""
    pq.write_table(pa.table(dict(columns)), path, **options)
    return path
