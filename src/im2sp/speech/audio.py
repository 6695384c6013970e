"""Audio files in, waveforms out, and back. Waveforms are float32 [samples], 16 kHz, in [-1, 1]."""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from im2sp.arrays import HOP, SAMPLE_RATE, UNIT_RATE, FloatArray
from im2sp.errors import AudioError, reason
from im2sp.files import atomic_write, open_regular, why_missing

if TYPE_CHECKING:
    from soundfile import SoundFile

__all__ = [
    "HOP", "MAX_CHANNELS", "MAX_FILE_BYTES", "MAX_SECONDS", "RATES", "SAMPLE_RATE", "UNIT_RATE", "AudioSource",
    "Pcm16Array", "encode_wav", "mono_float32", "read_audio", "to_pcm16", "write_wav",
]  # fmt: skip

Pcm16Array = npt.NDArray[np.int16]
AudioSource = str | Path | bytes | BinaryIO

MAX_FILE_BYTES = 512 * 2**20  # larger files are refused unread
MAX_SECONDS = 1_800  # a waveform of half an hour takes 115 MB
MAX_CHANNELS = 32
RATES = range(4_000, 768_001)  # Hz, the sampling rates that are taken for real
_BLOCK_SAMPLES = 2**18  # decoded at a time, all channels together
_READABLE = "WAV, FLAC, Ogg or MP3"
_OTHERS = ((4, b"ftyp", "MPEG-4 (m4a, mp4)"), (0, b"\x1aE\xdf\xa3", "WebM or Matroska"))  # place, bytes, kind
_FULL_SCALE = 32_768  # 16-bit value of 1.0, as decoders divide; 1.0 itself is written as the value below


def read_audio(source: AudioSource) -> FloatArray:
    """Read a recording as float32 [samples]: 16 kHz, channels averaged into one, clipped to [-1, 1].

    `source`: a path, the bytes of a file or a binary file object that can seek; WAV, FLAC, Ogg, MP3 and what else
    libsndfile knows. A WAV file that ends before its header says is read as far as it goes.

    Raises AudioError: missing, empty, too large, longer than MAX_SECONDS, not a recording, damaged.
    """
    if isinstance(source, str | os.PathLike):
        try:
            with open_regular(Path(source), MAX_FILE_BYTES) as opened:
                return _decode(opened, str(source))
        except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
            raise AudioError(f"{source}: cannot be read ({why_missing(str(source), error)})") from error
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else "the given recording"
    try:
        size = file.seek(0, os.SEEK_END)
    except (AttributeError, OSError, ValueError) as error:
        raise AudioError(f"{name}: is not a binary file that can seek; give a path or the bytes instead") from error
    if size > MAX_FILE_BYTES:
        raise AudioError(f"{name}: is larger than {MAX_FILE_BYTES // 2**20} MiB, the limit for a recording")
    return _decode(file, name)


def write_wav(path: str | Path, waveform: FloatArray) -> None:
    """Write waveform (float32 [samples], 16 kHz; clipped to [-1, 1]) as a 16-bit mono WAV file, whole or not at all.

    Raises AudioError when the waveform is not one channel of finite numbers, when the name promises another format, or
    when the file cannot be written.
    """
    if Path(path).suffix.lower() not in ("", ".wav"):
        raise AudioError(f"{path}: only WAV is written; give a name that ends in .wav")
    samples = to_pcm16(waveform)
    try:
        with atomic_write(Path(path)) as temporary, temporary.open("wb") as file:
            _write_pcm16(file, samples)
            file.flush()
            os.fsync(file.fileno())  # a full disk may be noticed only now, and a name must not outlive its contents
    except OSError as error:
        raise AudioError(f"{path}: cannot be written ({reason(error)})") from error


def encode_wav(waveform: FloatArray) -> bytes:
    """Return the bytes that `write_wav` would write. Raises AudioError as it does."""
    file = io.BytesIO()
    _write_pcm16(file, to_pcm16(waveform))
    return file.getvalue()


def to_pcm16(waveform: FloatArray) -> Pcm16Array:
    """Convert a waveform (float32 [samples], clipped to [-1, 1]) to 16-bit samples, little-endian.

    Raises AudioError when the waveform is not one channel of finite numbers.
    """
    samples = mono_float32(waveform)
    if not np.isfinite(samples).all():
        raise AudioError("the waveform holds values that are not finite numbers")
    return np.rint(samples * _FULL_SCALE).clip(-_FULL_SCALE, _FULL_SCALE - 1).astype("<i2")


def mono_float32(waveform: FloatArray) -> FloatArray:
    """Return the waveform as contiguous float32 [samples]. Raises AudioError when it is not one channel of floats."""
    samples = np.asarray(waveform)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"a waveform is float32 [samples], not {samples.dtype} {list(samples.shape)}")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _write_pcm16(file: BinaryIO, samples: Pcm16Array) -> None:
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(samples.itemsize)
        wav.setframerate(SAMPLE_RATE)
        wav.writeframes(samples.tobytes())


def _decode(file: BinaryIO, name: str) -> FloatArray:
    import soundfile  # here, so that a bundle's config can be read without loading the codecs

    try:
        file.seek(0)
        if not file.read(1):
            raise AudioError(f"{name}: is empty (zero bytes)")
        file.seek(0)
        with soundfile.SoundFile(file) as recording:
            _check_header(recording, name)
            pieces = list(_resampled(recording, name))
    except AudioError:
        raise
    except TypeError as error:  # a file object called something.raw, which soundfile will not look into
        raise AudioError(f"{name}: has no header that says what it holds; convert it to WAV first") from error
    except soundfile.LibsndfileError as error:
        file.seek(0)
        head = file.read(12)
        kind = next((kind for at, magic, kind in _OTHERS if head.startswith(magic, at)), None)
        if kind:
            raise AudioError(f"{name}: is {kind}, which im2sp does not read; convert it to {_READABLE}") from error
        raise AudioError(f"{name}: is not a recording that im2sp can read ({_READABLE}), or is damaged") from error
    except Exception as error:  # decoders meet hostile bytes with nearly every exception there is
        raise AudioError(f"{name}: cannot be read ({reason(error)})") from error
    waveform = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if waveform.size == 0:
        raise AudioError(f"{name}: holds no sound")
    return np.clip(waveform, -1, 1, out=waveform)


def _check_header(recording: SoundFile, name: str) -> None:
    """Refuse by the header what would take too much memory or is not plausible."""
    if recording.channels > MAX_CHANNELS:
        raise AudioError(f"{name}: has {recording.channels} channels; the limit is {MAX_CHANNELS}")
    if recording.samplerate not in RATES:
        raise AudioError(
            f"{name}: has a sampling rate of {recording.samplerate} Hz; it must be from {RATES[0]} to {RATES[-1]} Hz"
        )


def _resampled(recording: SoundFile, name: str) -> Iterator[FloatArray]:
    """Yield mono pieces at 16 kHz. Length is counted as it comes: the header may promise more or less than there is."""
    import soxr

    rate = recording.samplerate
    stream = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    left = MAX_SECONDS * rate
    while True:
        block = recording.read(_BLOCK_SAMPLES // recording.channels, dtype="float32", always_2d=True)
        left -= len(block)
        if left < 0:
            raise AudioError(f"{name}: is longer than {MAX_SECONDS // 60} minutes, the limit; cut it into pieces first")
        mono = block.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise AudioError(f"{name}: holds values that are not finite numbers")
        last = len(block) == 0
        piece = mono if stream is None else stream.resample_chunk(mono, last=last)
        if not np.isfinite(piece).all():
            raise AudioError(f"{name}: is too loud to be resampled; its samples are to be within -1 and 1")
        yield piece
        if last:
            return
