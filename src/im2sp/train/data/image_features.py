"""Cached image features: one float16 array a view, with the image ids in order; and what may stand in their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from im2sp.errors import Im2SpError


class PhotoInputs(Protocol):
    """What a translator looks at, for many photos in several views: cached features, or what stored units say."""

    views: list[str]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one photo: (image_tokens, width) of features, (units,) of units."""

    def get(self, image_id: str, view: int = 0) -> np.ndarray[Any, Any]:
        """One photo in one view: [*shape]."""

    def batch(self, image_ids: list[str], views: np.ndarray[Any, Any] | int = 0) -> np.ndarray[Any, Any]:
        """Several photos, one view each: [B, *shape]; numbers are floats in features, integers in units."""


class ImageFeatures:
    """Features of many photos, by image id: float16 [views, image_tokens, width] each, memory-mapped."""

    def __init__(self, *folders: Path) -> None:
        """Open one folder or several, which then count as one.

        Raises:
            Im2SpError: a folder has no features, or they were made by another backbone or in other views.
        """
        self._arrays: list[list[np.ndarray]] = []  # of each folder, one a view
        self.rows: dict[str, tuple[int, int]] = {}  # image id -> (folder, row)
        made: tuple[list[str], object] | None = None
        for number, folder in enumerate(folders):
            index = folder / "index.json"
            if not index.is_file():
                raise Im2SpError(f"{index} is missing: run the stage `encode` first")
            description = json.loads(index.read_text())
            how = description["views"], description.get("backbone")
            if made is not None and how != made:
                raise Im2SpError(f"{folder} and {folders[0]} hold features of different backbones or views")
            made = how
            self.views: list[str] = description["views"]
            self.rows |= {image_id: (number, row) for row, image_id in enumerate(description["image_ids"])}
            self._arrays.append([np.load(folder / f"{view}.npy", mmap_mode="r") for view in self.views])

    @property
    def shape(self) -> tuple[int, int]:
        """(image_tokens, width) of one photo."""
        return self._arrays[0][0].shape[1:]

    def get(self, image_id: str, view: int = 0) -> np.ndarray:
        """Features of one photo in one view: float16 [image_tokens, width].

        Raises:
            Im2SpError: there are none of this photo.
        """
        if image_id not in self.rows:
            raise Im2SpError(
                f"there are no image features of the photo {image_id}: run the stage `encode` on this data"
            )
        folder, row = self.rows[image_id]
        return self._arrays[folder][view][row]

    def batch(self, image_ids: list[str], views: np.ndarray | int = 0) -> np.ndarray:
        """Features of several photos, one view each: float16 [B, image_tokens, width]."""
        chosen = np.broadcast_to(np.asarray(views), (len(image_ids),))
        return np.stack([self.get(image_id, int(view)) for image_id, view in zip(image_ids, chosen, strict=True)])
