"""What the commands of the lab tell while they work."""

from __future__ import annotations

import logging
import sys

from im2sp.train.launch import process_number


def log_to_stderr() -> None:
    """Show what the stages log, from now on; of several processes, what the first does."""
    level = logging.INFO if process_number() == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
