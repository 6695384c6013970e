"""Messages of the training commands."""

from __future__ import annotations

import logging
import sys

from im2sp.train.launch import is_main_process


def log_to_stderr() -> None:
    """Show messages on stderr from now on; of other processes than the main one, warnings only."""
    level = logging.INFO if is_main_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
