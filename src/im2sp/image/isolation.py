"""Decoding in child processes that are ended when a picture takes too much: a file's bytes in, an RGB image out.

There are three children. One is for pictures that are cheap by their header, as most are. Of the others, one that takes
long in the second child is begun again in the third, so that the next one waits for two seconds at most. A child is
used again, and replaced when it was ended. Where the system cannot limit a process (Windows), time alone is limited.
"""

from __future__ import annotations

import atexit
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO

from PIL import Image

from im2sp.errors import ImageError, reason

CPU_SECONDS = 10  # for one picture
MEMORY = 500 * 10**6  # bytes of a child as a whole
_SECONDS = (CPU_SECONDS, 2, CPU_SECONDS - 2)  # of processor time in each child
_WALL = 6  # times as long may a child take by the clock: on a busy machine it has less than one processor
_GRACE = 1  # seconds between the end of the pipes of a child and its own
_NICENESS = 5  # what takes long does not slow down the rest
_REQUEST = struct.Struct("<QQQ")  # seconds, bytes of the name, bytes of the file; both follow
_REPLY = struct.Struct("<QQ")  # width and height of the RGB image that follows; or 0 and the bytes of a sentence
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}  # address space is limited, threads reserve it


def decode_isolated(data: bytes, name: str, *, cheap: bool = False) -> Image.Image:
    """Decode a picture file in a child. Raises ImageError, also when it takes too much time or memory.

    `cheap`: it is a JPEG or PNG that cannot take long (`slimming`).
    """
    for lane in _lanes()[:1] if cheap else _lanes()[1:]:
        with suppress(_TooSlowError):
            return lane.decode(data, name)
    raise ImageError(f"{name}: takes more than {CPU_SECONDS} seconds to decode; save it again as an ordinary JPEG")


def end_decoding() -> None:
    """End the children now, and refuse the pictures that are with them or wait for them."""
    for lane in _lanes_of.pop(os.getpid(), ()):
        lane.end()


class _TooSlowError(Exception):
    """A child was ended because its picture took too long."""


class _Lane:
    """One child, and the pictures that wait for it."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds  # of processor time for a picture
        self.process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()
        self._ended = False

    def decode(self, data: bytes, name: str) -> Image.Image:
        """Decode a picture when the child is free. Raises ImageError, and _TooSlowError when the child was ended."""
        with self._turn:
            process = self.process = self.process or _start(name)
            timer = threading.Timer(_WALL * self.seconds, process.kill)
            timer.start()
            try:
                if self._ended:
                    raise ImageError(f"{name}: is not decoded any more, since the program ends")
                found = _exchange(process, data, name, self.seconds)
            except BaseException as error:  # also Ctrl-C: half a reply is of no use
                broken = isinstance(error, OSError | EOFError | ValueError)  # ValueError: the pipes have been closed
                self.process = None
                _end(process, _GRACE if broken else 0)
                if not broken:
                    raise
                if sys.platform == "win32" or process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
                    raise _TooSlowError from error
                raise ImageError(f"{name}: is damaged; its decoder broke down") from error
            finally:
                timer.cancel()
        if isinstance(found, str):
            raise ImageError(found)
        return found

    def end(self) -> None:
        """End the child, whatever it does."""
        self._ended = True
        if (process := self.process) is not None:
            _end(process)


_lanes_of: dict[int, tuple[_Lane, ...]] = {}  # by process: one that was forked has none of its parent's children
_lock = threading.Lock()


def _lanes() -> tuple[_Lane, ...]:
    with _lock:
        lanes = _lanes_of.get(os.getpid())
        if lanes is None:
            _lanes_of.clear()
            lanes = _lanes_of[os.getpid()] = tuple(map(_Lane, _SECONDS))
            atexit.register(end_decoding)
        return lanes


def _start(name: str) -> subprocess.Popen[bytes]:
    """Start a child. Raises ImageError about the picture `name` when that fails."""
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", "from im2sp.image.isolation import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders print there what they think of a file
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except OSError as error:
        raise ImageError(f"{name}: no process can be started to decode it in ({reason(error)})") from error


def _exchange(process: subprocess.Popen[bytes], data: bytes, name: str, seconds: int) -> Image.Image | str:
    """Return the image, or a sentence that says why there is none."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    label = name.encode("utf-8", "surrogateescape")
    for piece in (_REQUEST.pack(seconds, len(label), len(data)), label, data):
        stdin.write(piece)
    stdin.flush()
    width, height = _REPLY.unpack(_read(stdout, _REPLY.size))
    if not width:
        return _read(stdout, height).decode("utf-8", "surrogateescape")
    return Image.frombytes("RGB", (width, height), _read(stdout, 3 * width * height))


def _end(process: subprocess.Popen[bytes], grace: float = 0) -> None:
    """End a child, unless it ends by itself within `grace` seconds."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):  # after that: another thread may wait for them
        with suppress(OSError):
            pipe.close()  # type: ignore[union-attr]


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def serve() -> None:
    """Decode pictures from standard input to standard output until it ends: the whole life of a child."""
    from im2sp.image.decoding import decode

    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which ends the child
        signal.signal(number, signal.SIG_IGN)
    _limit_memory()
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, BrokenPipeError):
        while True:
            seconds, label, size = _REQUEST.unpack(_read(requests, _REQUEST.size))
            name = _read(requests, label).decode("utf-8", "surrogateescape")
            _limit_time(seconds)
            try:
                image = decode(_read(requests, size), name)
                replies.write(_REPLY.pack(*image.size) + image.tobytes())
            except (ImageError, MemoryError) as error:
                sentence = str(error) or f"{name}: takes more memory than a picture may; make it smaller first"
                encoded = sentence.encode("utf-8", "surrogateescape")
                replies.write(_REPLY.pack(0, len(encoded)) + encoded)
            replies.flush()


def _limit_memory() -> None:
    """Bound the memory of this process by bounding its address space, of which it has more from the start."""
    if sys.platform == "win32":
        return
    import resource

    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")  # where all memory is taken, this process ends, and not the one that it works for
        with open("/proc/self/statm", encoding="ascii") as file:
            reserved, resident = (int(pages) * resource.getpagesize() for pages in file.read().split()[:2])
        most = reserved - resident + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_time(seconds: int) -> None:
    """Have the system end this process when the next picture takes longer."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + seconds, resource.RLIM_INFINITY))
