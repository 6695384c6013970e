"""Processes of a run as the launcher (`torchrun`, `accelerate launch`) says, before torch is loaded; their messages."""

from __future__ import annotations

import logging
import os
import sys


def process_count() -> int:
    """How many processes this run has; 1 where nobody launched several."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process writes what the processes of a run make together."""
    return os.environ.get("RANK", "0") == "0"


def log_to_stderr() -> None:
    """Show messages on stderr from now on; of other processes than the main one, warnings only."""
    level = logging.INFO if is_main_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
