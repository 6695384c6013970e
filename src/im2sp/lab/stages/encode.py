"""Stage `encode`: photos -> cached image features, in several views of each photo."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from im2sp.files import replace_whole
from im2sp.images.loading import load_image, to_pixels
from im2sp.lab.models.image_backbone import BackboneConfig, ImageBackbone

log = logging.getLogger(__name__)

CHUNK = 256  # photos between two saves


def view_of(image: Image.Image, view: str) -> Image.Image:
    """A view of a photo: "whole", "flip" (mirrored), or "crop<p>" (the middle p % of each side, mirrored for odd p)."""
    if view == "flip":
        return ImageOps.mirror(image)
    if view.startswith("crop"):
        share = int(view.removeprefix("crop"))
        width, height = (round(side * share / 100) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        cropped = image.crop((left, top, left + width, top + height))
        return ImageOps.mirror(cropped) if share % 2 else cropped
    return image


def encode(
    photos: dict[str, Path],
    out: Path,
    config: BackboneConfig,
    views: tuple[str, ...] = ("whole", "flip"),
    batch: int = 16,
) -> None:
    """Write `out/<view>.npy` float16 [photos, image_tokens, width] and `out/index.json`; goes on after an interruption.

    Features are computed in bfloat16 where the processor has it: the rounding (about 5 %) is far below what the
    translator's dropout adds, and the frozen backbone then runs three times faster.
    """
    index = out / "index.json"
    description = {"image_ids": list(photos), "views": list(views), "backbone": config.__dict__}
    if index.is_file() and json.loads(index.read_text()) == description:
        log.info("encode: %d photos are there already", len(photos))
        return
    backbone = ImageBackbone.pretrained(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for view in views:
        target = out / f"{view}.npy"
        if not target.exists():
            _encode_view(list(photos.items()), view, target, backbone, batch)
    with replace_whole(index) as temporary:
        temporary.write_text(json.dumps(description))


def _encode_view(photos: list[tuple[str, Path]], view: str, target: Path, backbone: ImageBackbone, batch: int) -> None:
    config = backbone.config
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
                        view_of(load_image(path), view),
                        config.image_size,
                        config.image_size,
                        (config.mean,) * 3,
                        (config.std,) * 3,
                    )
                    for _, path in chunk[start : start + batch]
                ]
            )
            tensor = torch.from_numpy(pixels).to(memory_format=torch.channels_last)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                rows.append(backbone(tensor).numpy().astype(np.float16))
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
