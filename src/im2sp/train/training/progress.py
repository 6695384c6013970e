"""What training loops share: learning-rate schedule, checkpoints that survive a kill, a log to plot."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from im2sp.files import replace_whole

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 240  # at least this often; a kill loses no more than that


def warm_up_cosine(step: int, steps: int, warm_up: int, floor: float = 0.02) -> float:
    """Factor on the peak learning rate: linear from 0 over `warm_up` steps, then a cosine to `floor`."""
    if step < warm_up:
        return (step + 1) / warm_up
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))


class Checkpoint:
    """Training state in one file, replaced whole: tensors, numbers and strings only (`weights_only`).

    Args:
        writes: False in the processes of a run that only read it.
        decide: where the state is in shards, of which all processes have one: what the first process wants, told to
            all of them. They then make the state together, and the first writes it.
    """

    def __init__(
        self,
        path: Path,
        state: Callable[[], dict[str, Any]],
        writes: bool = True,
        decide: Callable[[bool], bool] | None = None,
    ) -> None:
        self.path, self._state, self._last, self._writes = path, state, time.monotonic(), writes
        self._decide = decide

    def load(self) -> dict[str, Any] | None:
        """The newest state, or None at a fresh start."""
        if not self.path.is_file():
            return None
        in_shards = self._decide is not None  # then no process has room for all of it
        loaded: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True, mmap=in_shards)
        log.info("%s: going on from step %s", self.path, loaded.get("step"))
        return loaded

    def save(self) -> None:
        """Save now."""
        if not self._writes and self._decide is None:
            return
        state = self._state()
        if self._writes:
            with replace_whole(self.path) as temporary:
                torch.save(state, temporary)
        self._last = time.monotonic()

    def maybe_save(self) -> None:
        """Save when the last save is CHECKPOINT_SECONDS old."""
        due = time.monotonic() - self._last > CHECKPOINT_SECONDS
        if self._decide(due) if self._decide else due:
            self.save()


class TrainingLog:
    """Appends one JSON object a report to `log.jsonl` and prints it.

    Args:
        writes: False in the processes of a run that keep silent.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._started, self._writes = path, time.monotonic(), writes

    def write(self, **values: float | int | str) -> None:
        """Report values; `minutes` since this process started is added."""
        if not self._writes:
            return
        row = {**values, "minutes": (time.monotonic() - self._started) / 60}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        log.info("%s", "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
