"""Features and image units of many photos, in several views: arrays in a folder, one a view, and an index of photos."""

from __future__ import annotations

import json
import logging
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from im2sp.errors import Im2SpError
from im2sp.files import atomic_write
from im2sp.image.loading import load_image, to_pixels
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone, LateBackbone, channels_last
from im2sp.train.models.image_units import ImageUnits

log = logging.getLogger(__name__)

INDEX = "photos.json"
BATCH = 16
CROP = 0.7, 0.95  # of each side of a photo, the least and the most that a random crop keeps

Array = npt.NDArray[np.generic]


class PhotoArrays:
    """Arrays of photos by view: `<view>.npy` [photos, ...], memory-mapped.

    Raises:
        Im2SpError: the folder is not complete.
    """

    def __init__(self, folder: Path, views: Sequence[str]) -> None:
        try:
            photos = json.loads((folder / INDEX).read_text())
            self._arrays = [np.load(folder / f"{view}.npy", mmap_mode="r") for view in views]
        except (OSError, ValueError) as error:
            raise Im2SpError(f"the arrays of photos in {folder} cannot be read: {error}") from error
        self.rows = {photo: row for row, photo in enumerate(photos)}
        self.views = len(views)

    def batch(self, photos: Sequence[str], views: Sequence[int] | int = 0) -> Array:
        """Rows of photos in their views, the first one by default: [B, ...]."""
        chosen = np.broadcast_to(np.asarray(views), (len(photos),))
        return np.stack([self._arrays[view][self.rows[photo]] for photo, view in zip(photos, chosen, strict=True)])

    def units(self, photos: Sequence[str], views: Sequence[int] | int = 0) -> Tensor:
        """The same as a tensor int64, for arrays of units."""
        return torch.from_numpy(self.batch(photos, views).astype(np.int64))


def view_of(image: Image.Image, view: str, photo: str) -> Image.Image:
    """Show a photo "whole", or as "crop<n>": a random crop, which depends on n and the photo; mirrored for odd n."""
    if view == "whole":
        return image
    number = int(view.removeprefix("crop"))
    random = np.random.default_rng([number, zlib.crc32(photo.encode())])
    cropped = random_crop(image, random, random.uniform(*CROP))
    return ImageOps.mirror(cropped) if number % 2 else cropped


def random_crop(image: Image.Image, random: np.random.Generator, share: float) -> Image.Image:
    """Cut a rectangle out of a photo, in the photo's own shape, that keeps this share of each side."""
    width, height = (max(1, round(side * share)) for side in image.size)
    left, top = random.integers(image.width - width + 1), random.integers(image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


def extract_features(photos: Mapping[str, Path], views: Sequence[str], backbone: BackboneConfig, folder: Path) -> None:
    """Write features float16 [photos, grid * grid, 1280] of every view; goes on after an interruption.

    The backbone runs in onnxruntime, which is twice as fast as torch here.
    """
    _extract(photos, views, backbone, ImageBackbone.pretrained(backbone), folder)


def extract_maps(photos: Mapping[str, Path], views: Sequence[str], backbone: BackboneConfig, folder: Path) -> None:
    """Write what the late part of the backbone takes, float16 [photos, channels, H / 16, W / 16], in the same way."""
    _extract(photos, views, backbone, ImageBackbone.pretrained(backbone).early_part(), folder)


def _extract(
    photos: Mapping[str, Path], views: Sequence[str], backbone: BackboneConfig, module: nn.Module, folder: Path
) -> None:
    session = _session(module, backbone.image_size)

    def encode(chunk: Sequence[tuple[str, Path]], view: str) -> Array:
        pixels = np.stack([_pixels(path, view, photo, backbone) for photo, path in chunk])
        features: Array = session.run(None, {"pixels": pixels})[0]
        return features

    write_arrays(photos, views, encode, folder)


def write_arrays(
    photos: Mapping[str, Path],
    views: Sequence[str],
    encode: Callable[[Sequence[tuple[str, Path]], str], Array],
    folder: Path,
    kind: npt.DTypeLike = np.float16,
) -> None:
    """Write an array [photos, ...] of every view; goes on after an interruption.

    Args:
        encode: some (photo, path), view -> array [photos, ...].
    """
    (folder / INDEX).write_text(json.dumps(list(photos)))
    for view in views:
        target, partial, progress = (folder / f"{view}{end}" for end in (".npy", ".part.npy", ".progress"))
        if target.exists():
            continue
        done = int(progress.read_text()) if progress.exists() else 0
        array = np.lib.format.open_memmap(partial, "r+") if done else None
        chosen = list(photos.items())
        for start in range(done, len(chosen), BATCH):
            chunk = chosen[start : start + BATCH]
            found = encode(chunk, view)
            if array is None:
                array = np.lib.format.open_memmap(partial, "w+", kind, (len(chosen), *found.shape[1:]))
            array[start : start + len(chunk)] = found
            if start // BATCH % 64 == 63:
                array.flush()
                progress.write_text(str(start + len(chunk)))
                log.info("features, view %s: %d of %d photos", view, start + len(chunk), len(chosen))
        if array is None:
            raise Im2SpError(f"there are no photos to encode into {folder}")
        array.flush()
        partial.rename(target)
        progress.unlink(missing_ok=True)


def _session(module: nn.Module, size: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.onnx"
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, size, size),),
            path,
            input_names=["pixels"],
            dynamic_axes={"pixels": {0: "photos"}},
            dynamo=False,
        )
        return onnxruntime.InferenceSession(path, options)


def _pixels(path: Path, view: str, photo: str, backbone: BackboneConfig) -> npt.NDArray[np.float32]:
    size, mean, std = backbone.image_size, (backbone.mean,) * 3, (backbone.std,) * 3
    return to_pixels(view_of(load_image(path), view, photo), size, size, mean, std)


@torch.inference_mode()
def write_features(late: LateBackbone, maps: Path, views: Sequence[str], folder: Path) -> None:
    """Maps of photos in a folder, as `extract_maps` writes them -> their features in another one."""
    late = channels_last(late)
    (folder / INDEX).write_text((maps / INDEX).read_text())
    for view in views:
        array = np.load(maps / f"{view}.npy", mmap_mode="r")
        with atomic_write(folder / f"{view}.npy") as temporary:
            features = None
            for start in range(0, len(array), 64):
                found = late(torch.from_numpy(array[start : start + 64].astype(np.float32))).numpy()
                if features is None:
                    shape = (len(array), *found.shape[1:])
                    features = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
                features[start : start + len(found)] = found
            if features is not None:
                features.flush()
        log.info("features, view %s: %d photos", view, len(array))


@torch.inference_mode()
def write_units(model: ImageUnits, features: Path, views: Sequence[str], folder: Path) -> None:
    """Features of photos in a folder -> their units uint16 [photos, units] in another one."""
    (folder / INDEX).write_text((features / INDEX).read_text())
    for view in views:
        array = np.load(features / f"{view}.npy", mmap_mode="r")
        rows = [
            model(torch.from_numpy(array[start : start + 256].astype(np.float32))).numpy().astype(np.uint16)
            for start in range(0, len(array), 256)
        ]
        with atomic_write(folder / f"{view}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(rows))
