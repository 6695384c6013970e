"""What a launcher (`torchrun`, `accelerate launch`) tells each process that it starts, known before torch is loaded."""

from __future__ import annotations

import os


def process_count() -> int:
    """How many processes this run has; 1 where nobody launched several."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_number() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this process writes what the processes of a run make together."""
    return process_number() == 0
