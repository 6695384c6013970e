"""Playing: waveforms in, sound out, while more of them are being made. Needs `im2sp[play]`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError, reason
from im2sp.speech.audio import SAMPLE_RATE

if TYPE_CHECKING:
    from im2sp.captioner import SpeechCaption
    from im2sp.streaming import SpeechChunk

PAUSE = SAMPLE_RATE // 2  # samples of silence after a caption
AHEAD = SAMPLE_RATE  # samples that may wait to be heard before the one who writes has to wait, too
PATIENCE = 5.0  # seconds that a device may be late


class PlaybackError(Im2SpError):
    """Sound that cannot be played."""


class Sink(Protocol):
    """Where waveforms go, one after the other without a gap."""

    def write(self, waveform: FloatArray) -> None:
        """Take waveform (float32 [samples], 16 kHz, in [-1, 1]). Raises PlaybackError."""
        ...

    def close(self) -> None:
        """Return when everything is out."""
        ...


def play(chunks: Iterable[SpeechChunk], sink: Sink) -> SpeechCaption:
    """Write the chunks of a caption (`Captioner.stream`) as they come, and a pause after them; return the caption."""
    caption = None
    for chunk in chunks:
        sink.write(chunk.waveform)
        caption = chunk.caption
    sink.write(np.zeros(PAUSE, dtype=np.float32))
    assert caption is not None
    return caption


class Loudspeaker:
    """The default output device. As a context it is closed at the end, or silenced at once after an exception."""

    def __init__(self) -> None:
        """Raises PlaybackError when sounddevice, PortAudio or a device is missing."""
        sounddevice = _sounddevice()
        self._stop: type[Exception] = sounddevice.CallbackStop
        self._waiting: deque[FloatArray] = deque()
        self._samples = 0  # in all that is waiting
        self._is_closing = False
        self._taken = threading.Condition()
        self._ended = threading.Event()
        try:
            self._stream = sounddevice.OutputStream(
                samplerate=SAMPLE_RATE,
                channels=1,
                dtype="float32",
                callback=self._fill,
                finished_callback=self._ended.set,
            )
            self._stream.start()
        except (sounddevice.PortAudioError, OSError, ValueError) as error:
            raise PlaybackError(
                f"there is no device to play on ({reason(error)}): connect one, or write files with --out"
            ) from error

    def write(self, waveform: FloatArray) -> None:
        """Queue a waveform; returns when no more than AHEAD samples are left to be played."""
        with self._taken:
            self._waiting.append(waveform)
            self._samples += len(waveform)
            if not self._taken.wait_for(lambda: self._samples <= AHEAD, self._patience()):
                raise PlaybackError("the device that plays takes no more sound: see whether it is still connected")

    def close(self) -> None:
        """Return when everything has been heard."""
        with self._taken:
            self._is_closing = True
            patience = self._patience()
        try:
            if not self._ended.wait(patience):
                raise PlaybackError("the device that plays does not come to an end: see whether it is still connected")
        finally:
            self._stream.close()

    def silence(self) -> None:
        """Stop at once."""
        self._stream.abort()
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.silence()

    def _patience(self) -> float:
        return self._samples / SAMPLE_RATE + PATIENCE

    def _fill(self, wanted: FloatArray, frames: int, time: object, status: object) -> None:
        """Called by PortAudio: fill float32 [frames, 1]. Where nothing is waiting yet, there is silence."""
        with self._taken:
            filled = 0
            while self._waiting and filled < frames:
                piece = self._waiting.popleft()
                part = piece[: frames - filled]
                wanted[filled : filled + len(part), 0] = part
                filled += len(part)
                if len(part) < len(piece):
                    self._waiting.appendleft(piece[len(part) :])
            wanted[filled:] = 0
            self._samples -= filled
            self._taken.notify()
            if self._is_closing and not self._waiting:
                raise self._stop


def _sounddevice() -> ModuleType:
    try:
        import sounddevice
    except ImportError as error:
        raise PlaybackError("playing needs the package sounddevice: install im2sp[play]") from error
    except OSError as error:  # what it raises without PortAudio
        raise PlaybackError(
            f"sounddevice cannot be used ({reason(error)}): install PortAudio, on Debian with apt install libportaudio2"
        ) from error
    module: ModuleType = sounddevice
    return module
