"""Stage `encode`: photos -> cached image features, in several views of each photo."""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from im2sp.files import replace_whole, sha256_of
from im2sp.images.loading import load_image, to_pixels
from im2sp.lab.models.image_backbone import BackboneConfig, ImageBackbone

log = logging.getLogger(__name__)

CHUNK = 256  # photos between two saves


EARLY, ALL = "early", "all"  # how far photos go through the backbone
SMALLEST_SHARE, LARGEST_SHARE = 0.7, 0.95  # of each side that a random crop keeps


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
        cropped = _random_crop(image, np.random.default_rng([number, zlib.crc32(image_id.encode())]))
        return ImageOps.mirror(cropped) if number % 2 else cropped
    return image


def _random_crop(image: Image.Image, random: np.random.Generator) -> Image.Image:
    share = random.uniform(SMALLEST_SHARE, LARGEST_SHARE)
    width, height = (max(1, round(side * share)) for side in image.size)
    left, top = random.integers(image.width - width + 1), random.integers(image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


def encode(
    photos: dict[str, Path],
    out: Path,
    config: BackboneConfig,
    views: tuple[str, ...] = ("whole", "flip"),
    batch: int = 16,
    part: str = ALL,
    tuned: Path | None = None,
) -> None:
    """Write `out/<view>.npy` float16 [photos, ...] and `out/index.json`; goes on after an interruption.

    Of a photo, that is [image_tokens, width] after the whole backbone, maps [C, H / 16, W / 16] after its early part.

    Features are computed in bfloat16 where the processor has it: the rounding (about 5 %) is far below what the
    translator's dropout adds, and the frozen backbone then runs three times faster.

    Args:
        part: EARLY or ALL.
        tuned: weights of the late part of the backbone that replace those of ImageNet.
    """
    index = out / "index.json"
    description = {"image_ids": list(photos), "views": list(views), "backbone": description_of(config, part, tuned)}
    if index.is_file() and json.loads(index.read_text()) == description:
        log.info("encode: %d photos are there already", len(photos))
        return
    backbone = ImageBackbone.pretrained(config, tuned)
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    see = backbone.early if part == EARLY else backbone
    for view in views:
        target = out / f"{view}.npy"
        if not target.exists():
            _encode_view(list(photos.items()), view, target, config, see, batch)
    with replace_whole(index) as temporary:
        temporary.write_text(json.dumps(description))


def description_of(config: BackboneConfig, part: str = ALL, tuned: Path | None = None) -> dict[str, str | int | float]:
    """What features are made by, as `index.json` says it; nothing is added for the whole backbone of ImageNet."""
    description: dict[str, str | int | float] = dict(config.__dict__)
    if part != ALL:
        description["part"] = part
        del description["grid"]  # maps come before it
    if tuned is not None:
        description["tuned"] = sha256_of(tuned)[:12]
    return description


def _encode_view(
    photos: list[tuple[str, Path]],
    view: str,
    target: Path,
    config: BackboneConfig,
    see: Callable[[torch.Tensor], torch.Tensor],
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
                        view_of(load_image(path), view, image_id),
                        config.image_size,
                        config.image_size,
                        (config.mean,) * 3,
                        (config.std,) * 3,
                    )
                    for image_id, path in chunk[start : start + batch]
                ]
            )
            tensor = torch.from_numpy(pixels).to(memory_format=torch.channels_last)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                rows.append(see(tensor).float().numpy().astype(np.float16))
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
    with replace_whole(target) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate([np.load(path) for path in sorted(parts.glob("*.npy"))]))
    for path in parts.glob("*.npy"):
        path.unlink()
    parts.rmdir()
