"""Playback: waveforms in, sound out, while more of them are being made. Needs `im2sp[play]`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.errors import PlaybackError, reason
from im2sp.installing import install_command
from im2sp.speech.audio import SAMPLE_RATE

if TYPE_CHECKING:
    from im2sp.captioner import SpeechCaption, SpeechChunk

PAUSE = SAMPLE_RATE // 2  # samples of silence after a caption
BUFFER = SAMPLE_RATE  # samples that may wait to be played before `write` blocks
TIMEOUT = 5.0  # seconds that a device may be late


class Sink(Protocol):
    """Takes waveforms to be heard one after the other without a gap."""

    def write(self, waveform: FloatArray) -> None:
        """Take a waveform: float32 [samples], 16 kHz, in [-1, 1]. Raises PlaybackError."""
        ...


def play(chunks: Iterable[SpeechChunk], sink: Sink) -> SpeechCaption:
    """Write the chunks of `Captioner.stream` as they come, and a pause after them; return the caption."""
    caption = None
    for chunk in chunks:
        sink.write(chunk.waveform)
        caption = chunk.caption
    sink.write(np.zeros(PAUSE, dtype=np.float32))
    assert caption is not None
    return caption


class AudioPlayer:
    """Plays on the default output device. As a context it drains at the end, or stops at once after an exception."""

    def __init__(self) -> None:
        """Raises PlaybackError when sounddevice, PortAudio or a device is missing."""
        sounddevice = _import_sounddevice()
        self._callback_stop: type[Exception] = sounddevice.CallbackStop
        self._queue: deque[FloatArray] = deque()
        self._queued = 0  # samples in the queue
        self._draining = False
        self._consumed = threading.Condition()
        self._finished = threading.Event()
        try:
            self._stream = sounddevice.OutputStream(
                samplerate=SAMPLE_RATE,
                channels=1,
                dtype="float32",
                callback=self._fill,
                finished_callback=self._finished.set,
            )
            self._stream.start()
        except (sounddevice.PortAudioError, OSError, ValueError) as error:
            raise PlaybackError(
                f"there is no device to play on ({reason(error)}): connect one, or write files with --out"
            ) from error

    def write(self, waveform: FloatArray) -> None:
        """Queue a waveform; block until no more than BUFFER samples are left to be played. Raises PlaybackError."""
        with self._consumed:
            self._queue.append(waveform)
            self._queued += len(waveform)
            if not self._consumed.wait_for(lambda: self._queued <= BUFFER, self._timeout()):
                raise PlaybackError("the device that plays takes no more sound: see whether it is still connected")

    def drain(self) -> None:
        """Block until everything has been heard, then close the device. Raises PlaybackError."""
        with self._consumed:
            self._draining = True
            timeout = self._timeout()
        try:
            if not self._finished.wait(timeout):
                raise PlaybackError("the device that plays does not come to an end: see whether it is still connected")
        finally:
            self._stream.close()

    def abort(self) -> None:
        """Stop at once and close the device."""
        self._stream.abort()
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.drain()
        else:
            self.abort()

    def _timeout(self) -> float:
        return self._queued / SAMPLE_RATE + TIMEOUT

    def _fill(self, output: FloatArray, frames: int, time: object, status: object) -> None:
        """Fill `output`, float32 [frames, 1], in PortAudio's thread; with silence where the queue is empty."""
        with self._consumed:
            filled = 0
            while self._queue and filled < frames:
                waveform = self._queue.popleft()
                part = waveform[: frames - filled]
                output[filled : filled + len(part), 0] = part
                filled += len(part)
                if len(part) < len(waveform):
                    self._queue.appendleft(waveform[len(part) :])
            output[filled:] = 0
            self._queued -= filled
            self._consumed.notify()
            if self._draining and not self._queue:
                raise self._callback_stop


def _import_sounddevice() -> ModuleType:
    try:
        import sounddevice
    except ImportError as error:
        raise PlaybackError(f"playing needs the package sounddevice: {install_command('play')}") from error
    except OSError as error:  # what it raises without PortAudio
        raise PlaybackError(
            f"sounddevice cannot be used ({reason(error)}): install PortAudio, on Debian with apt install libportaudio2"
        ) from error
    module: ModuleType = sounddevice
    return module
