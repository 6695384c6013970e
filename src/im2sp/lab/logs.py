"""What the commands of the lab tell while they work."""

from __future__ import annotations

import logging
import sys


def log_to_stderr() -> None:
    """Show what the stages log, from now on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
