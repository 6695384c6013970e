"""Work whose workers wait in the middle of a shard until they are told to go on, so that one can be killed there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from im2sp.collections.cluster import Work
from im2sp.collections.photos import Photo
from im2sp.collections.products import Product
from im2sp.collections.shards import Shard, ShardResult

MADE = 4  # photos of a shard, then its worker waits
GO_ON = "go on"


def meeting_place(out: Path) -> Path:
    """Where a worker leaves a file, named by its process, with the number of its shard, and where GO_ON is put."""
    return out.with_name(f"{out.name} waiting")


@dataclass(frozen=True)
class WaitingWork(Work):
    """Takes the place of `Work` in `im2sp.collections.running`."""

    def product(self) -> Product:
        return _Waiting(super().product(), meeting_place(self.folder))


class _Waiting:
    def __init__(self, product: Product, place: Path) -> None:
        self._product, self._place = product, place

    def make(self, photos: Iterable[Photo], shard: Shard) -> tuple[ShardResult, list[Path]]:
        return self._product.make(self._some_then_all(photos, shard), shard)

    def _some_then_all(self, photos: Iterable[Photo], shard: Shard) -> Iterator[Photo]:
        for number, photo in enumerate(photos):
            if number == MADE:
                self._wait(shard)
            yield photo

    def _wait(self, shard: Shard) -> None:
        if (self._place / GO_ON).exists():
            return
        here = self._place / str(os.getpid())
        here.with_suffix(".part").write_text(str(shard.number))
        here.with_suffix(".part").rename(here)
        while not (self._place / GO_ON).exists():
            time.sleep(0.01)
