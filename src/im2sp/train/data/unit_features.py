"""Stored image units -> what a translator looks at: read from tables once, held as uint16, looked up batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from im2sp.bundle import ImageTokenizer
from im2sp.errors import Im2SpError
from im2sp.image.unit_table import UnitTable
from im2sp.image.units import other_tokenizer

Views = npt.NDArray[Any] | int


def unit_table_file(folder: Path, view: str) -> Path:
    """The table of one view in a folder of stored units."""
    return folder / f"{view}.parquet"


class StoredUnits:
    """Image units of many photos, by image id."""

    def __init__(self, folders: Sequence[Path], views: Sequence[str], tokenizer: ImageTokenizer, stage: str) -> None:
        """Read one folder of tables or several, which then count as one.

        Args:
            views: a table each, in every folder.
            tokenizer: what must have made the units.
            stage: what makes the tables, for who has none.

        Raises:
            Im2SpError: a table is missing, or lists other photos than the first view.
            ImageError, TableError: it is damaged, or another tokenizer made it.
        """
        self.views = list(views)
        self.rows: dict[str, int] = {}
        self._units: list[npt.NDArray[np.uint16]] = []  # of each view [photos, units]
        for view in self.views:
            ids: list[str] = []
            parts = []
            for path in (unit_table_file(folder, view) for folder in folders):
                if not path.is_file():
                    raise Im2SpError(f"{path} is missing: run the stage `{stage}` first")
                table = UnitTable.open(path)
                if not table.tokenizer.makes_the_units_of(tokenizer):
                    raise Im2SpError(other_tokenizer(f"the units in {path}", table.tokenizer, tokenizer))
                for some, units in table.batches():
                    ids += some
                    parts.append(units.astype(np.uint16))
            self._units.append(np.concatenate(parts or [np.empty((0, tokenizer.units), np.uint16)]))
            rows = {image_id: row for row, image_id in enumerate(ids)}
            if self.rows and rows != self.rows:
                raise Im2SpError(f"the units of the views {self.views[0]} and {view} are of different photos")
            self.rows = rows

    @property
    def shape(self) -> tuple[int]:
        """(units,) of one photo."""
        return (self._units[0].shape[1],)

    def get(self, image_id: str, view: int = 0) -> npt.NDArray[np.int64]:
        """Units of one photo in one view: int64 [units]."""
        return self._units[view][self.rows[image_id]].astype(np.int64)

    def batch(self, image_ids: list[str], views: Views = 0) -> npt.NDArray[np.int64]:
        """Units of several photos, one view each: int64 [B, units]."""
        chosen = np.broadcast_to(np.asarray(views), (len(image_ids),))
        return np.stack([self.get(image_id, int(view)) for image_id, view in zip(image_ids, chosen, strict=True)])


class UnitFeatures:
    """Image features that stored units still say, with the interface of ImageFeatures.

    Args:
        vectors: units int64 [B, units] -> features float32 [B, image_tokens, width].
    """

    def __init__(self, stored: StoredUnits, vectors: Callable[[Tensor], Tensor]) -> None:
        self._stored, self._vectors = stored, vectors
        self.views = stored.views
        tokens, width = self._look_up(np.zeros((1, *stored.shape), dtype=np.int64)).shape[1:]
        self.shape: tuple[int, int] = (tokens, width)

    def get(self, image_id: str, view: int = 0) -> npt.NDArray[np.float32]:
        """Features of one photo in one view: float32 [image_tokens, width]."""
        return self.batch([image_id], view)[0]

    def batch(self, image_ids: list[str], views: Views = 0) -> npt.NDArray[np.float32]:
        """Features of several photos, one view each: float32 [B, image_tokens, width]."""
        return self._look_up(self._stored.batch(image_ids, views))

    def _look_up(self, units: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            found: npt.NDArray[np.float32] = self._vectors(torch.from_numpy(units)).numpy()
        return found
