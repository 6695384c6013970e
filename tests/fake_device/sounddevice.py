"""A device without a sound card, with the part of sounddevice's interface that im2sp uses.

The environment says what it is: IM2SP_DEVICE=none (no device), stuck (takes no sound), or a file to append to what is
heard: float32 samples, silence between chunks and all.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

BLOCK = 320  # frames in one call


class PortAudioError(Exception):
    pass


class CallbackStop(Exception):
    pass


class OutputStream:
    def __init__(
        self,
        samplerate: int,
        channels: int,
        dtype: str,
        callback: Callable[[np.ndarray, int, object, object], None],
        finished_callback: Callable[[], None],
    ) -> None:
        assert (samplerate, channels, dtype) == (16_000, 1, "float32")
        self._device = os.environ["IM2SP_DEVICE"]
        if self._device == "none":
            raise PortAudioError("Error querying device -1")
        self._callback, self._finished = callback, finished_callback
        self._aborted = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        if self._device != "stuck":
            self._thread.start()

    def abort(self) -> None:
        self._aborted.set()

    def close(self) -> None:
        self.abort()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        block = np.full((BLOCK, 1), np.nan, dtype=np.float32)
        with Path(self._device).open("ab") as file:
            while not self._aborted.is_set():
                try:
                    self._callback(block, BLOCK, None, None)
                except CallbackStop:
                    self._aborted.set()
                file.write(block.tobytes())
                time.sleep(0.0005)
        self._finished()
