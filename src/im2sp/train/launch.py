"""Processes of a run as the launcher (`torchrun`, `accelerate launch`) says, before torch is loaded."""

from __future__ import annotations

import os


def process_count() -> int:
    """How many processes this run has; 1 where nobody launched several."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process writes what the processes of a run make together."""
    return os.environ.get("RANK", "0") == "0"
