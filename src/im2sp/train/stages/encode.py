"""Stage `encode`: photos -> cached image features, in several views of each photo."""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import nn

from im2sp.arrays import FloatArray
from im2sp.bundle import ImageConfig
from im2sp.errors import Im2SpError
from im2sp.files import replace_whole
from im2sp.image.loading import load_image, to_pixels
from im2sp.train.data.photo_pieces import random_crop
from im2sp.train.image_encoders import ImageEncoder
from im2sp.train.precision import products

log = logging.getLogger(__name__)

CHUNK = 256  # photos between two saves
SHARES = 0.7, 0.95  # of each side of a photo, the smallest and the largest that a random crop keeps


def view_of(image: Image.Image, view: str, image_id: str = "") -> Image.Image:
    """A view of a photo.

    Args:
        view: "whole", "flip" (mirrored), "crop<p>" (the middle p % of each side, mirrored for odd p), or "random<n>"
            (a crop that follows from n and the photo alone, mirrored for odd n).
        image_id: of the photo; only random crops depend on it.
    """
    if view == "flip":
        return ImageOps.mirror(image)
    if view.startswith("crop"):
        share = int(view.removeprefix("crop"))
        width, height = (round(side * share / 100) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        cropped = image.crop((left, top, left + width, top + height))
        return ImageOps.mirror(cropped) if share % 2 else cropped
    if view.startswith("random"):
        number = int(view.removeprefix("random"))
        random = np.random.default_rng([number, zlib.crc32(image_id.encode())])
        cropped = random_crop(image, random, random.uniform(*SHARES))
        return ImageOps.mirror(cropped) if number % 2 else cropped
    return image


def encode(
    photos: dict[str, Path],
    out: Path,
    encoder: ImageEncoder,
    views: tuple[str, ...] = ("whole", "flip"),
    batch: int = 16,
) -> None:
    """Write `out/<view>.npy` float16 [photos, ...] and `out/index.json`; goes on after an interruption.

    Of a photo, that is what the encoder makes of it: [image_tokens, width], or maps [C, H / 16, W / 16] where it is the
    early part of a backbone.

    Features are computed on the GPU where there is one, and in bfloat16 where the processor has it: the rounding (about
    5 % with EfficientNet) is far below what the translator's dropout adds, and the frozen encoder then runs three times
    faster. Memory: the photos of a batch and the features of CHUNK photos.

    Raises:
        Im2SpError: `out` has features of other photos, or of another encoder.
    """
    index, begun = out / "index.json", out / "begun.json"
    made_of = {"image_ids": list(photos), "backbone": encoder.made_by}
    description = made_of | {"views": list(views)}
    for path in (index, begun):
        found = json.loads(path.read_text()) if path.is_file() else made_of
        if found == description:
            log.info("encode: %d photos are there already", len(photos))
            return
        if {name: found.get(name) for name in made_of} != made_of:
            raise Im2SpError(
                f"{out} holds features of other photos or of another image encoder: delete it, or take another folder "
                "of runs"
            )
    with replace_whole(begun) as temporary:
        temporary.write_text(json.dumps(made_of))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network: nn.Module = encoder.load().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(pixels: FloatArray) -> npt.NDArray[np.float16]:
        tensor = torch.from_numpy(pixels).to(device, memory_format=torch.channels_last)
        with torch.inference_mode(), products(device.type):
            return network(tensor).float().cpu().numpy().astype(np.float16)

    for view in views:
        target = out / f"{view}.npy"
        if not target.exists():
            _encode_view(list(photos.items()), view, target, encoder.image, features, batch)
    with replace_whole(index) as temporary:
        temporary.write_text(json.dumps(description))
    begun.unlink()


def _encode_view(
    photos: list[tuple[str, Path]],
    view: str,
    target: Path,
    image: ImageConfig,
    features: Callable[[FloatArray], npt.NDArray[np.float16]],
    batch: int,
) -> None:
    parts = target.parent / f"{target.stem}-parts"
    started, done = time.monotonic(), 0
    for first in range(0, len(photos), CHUNK):
        part = parts / f"{first:07d}.npy"
        if part.exists():
            continue
        rows = []
        chunk = photos[first : first + CHUNK]
        for start in range(0, len(chunk), batch):
            pixels = np.stack(
                [
                    to_pixels(
                        view_of(load_image(path), view, image_id), image.height, image.width, image.mean, image.std
                    )
                    for image_id, path in chunk[start : start + batch]
                ]
            )
            rows.append(features(pixels))
        with replace_whole(part) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(rows))
        done += len(chunk)
        log.info(
            "encode %s: %d/%d photos, %.1f a second",
            view,
            first + len(chunk),
            len(photos),
            done / (time.monotonic() - started),
        )
    with replace_whole(target) as temporary:
        _join(sorted(parts.glob("*.npy")), temporary, len(photos))
    for path in parts.glob("*.npy"):
        path.unlink()
    parts.rmdir()


def _join(parts: list[Path], target: Path, rows: int) -> None:
    """Write arrays one below the other, one at a time: all of them together may be larger than memory."""
    shape = np.load(parts[0], mmap_mode="r").shape[1:]
    joined = np.lib.format.open_memmap(target, "w+", np.float16, (rows, *shape))
    row = 0
    for path in parts:
        part = np.load(path)
        joined[row : row + len(part)] = part
        row += len(part)
    joined.flush()
