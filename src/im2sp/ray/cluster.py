"""A Ray cluster to be in: one that runs already, or one of its own on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from im2sp.errors import Im2SpError, debugging, reason
from im2sp.installing import require_extra

_OBJECT_STORE = 2**29  # bytes of shared memory on this machine, for photos from tables and for wavs


@contextmanager
def cluster(workers: int, threads: int) -> Iterator[Any]:
    """Be in a cluster within the block and yield `ray`: that of RAY_ADDRESS or of this process, or one on this machine.

    One on this machine has room for so many workers of so many threads, listens on the loopback address, asks for a
    token that only its processes know, and leaves nothing behind. Usage reports of Ray are off. Raises Im2SpError where
    Ray is missing or does not start.
    """
    own = not os.environ.get("RAY_ADDRESS")
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}
    if own:
        settings |= {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listens on the loopback address
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # or Ray would keep one in the home folder
        }
    if not debugging():
        settings["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    with require_extra("ray"):
        import ray
        import ray.data
        import ray.exceptions
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"logging_level": logging.INFO if debugging() else logging.CRITICAL}
    with ExitStack() as ending:
        if own:
            folder = tempfile.TemporaryDirectory(prefix="im2sp-", ignore_cleanup_errors=True)  # short: holds sockets
            options |= {
                "num_cpus": workers * max(1, threads) + 1,  # one for reading tables and writing files
                "object_store_memory": _OBJECT_STORE,
                "include_dashboard": False,
                "_temp_dir": ending.enter_context(folder),
            }
        ending.callback(ray.shutdown)  # before the folder goes
        try:
            with nullcontext() if debugging() else _silent_stderr():
                ray.init(log_to_driver=debugging(), **options)
        except Exception as error:  # Ray raises that class itself, too
            raise Im2SpError(f"Ray cannot be started ({reason(error)})") from error
        yield ray


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what is written to stderr, also by native code: Ray logs there that it was asked not to log."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
