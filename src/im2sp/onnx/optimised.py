"""Graphs as onnxruntime has optimised them before: a cache of one user on one machine, opened in a third of the time.

What a bundle stores in few bits has to be widened, folded and laid out for the processor each time that it is opened.
The result is kept under a name that depends on all that it was made of: the checksums of the whole bundle, onnxruntime
and the processor. An entry is a folder of `graph.onnx`, `weights.bin` and SHA256SUMS. It counts only when nobody else
could have written it and its checksums are right; whatever is wrong with it, the bundle is opened instead.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from im2sp.bundle import Bundle
from im2sp.errors import BundleError
from im2sp.files import verify_checksums, write_checksums
from im2sp.onnx.external_data import graph_bytes

CACHE = "IM2SP_CACHE"  # the environment variable: a folder in place of the user's cache, or `off`
GRAPH, WEIGHTS = "graph.onnx", "weights.bin"
MOST_GRAPHS = 12  # that are kept, about 20 MB each; those of three bundles
SMALLEST = 2**19  # bytes of a graph; smaller ones are open before an entry is verified
LARGEST = 2**26  # bytes; larger ones would take as much of the disk once more, and are mapped where they are

_LAYOUT = 1  # of the entries
_ABANDONED = 3_600  # seconds, after which a folder that is still being written belongs to nobody
_CPU = Path("/proc/cpuinfo")
_CPU_LINES = ("model name", "flags", "Features", "CPU implementer", "CPU part")  # of x86 and of Arm


class OptimisedGraphs:
    """The graphs that are kept in a folder. Safe to share between threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_user(cls) -> OptimisedGraphs | None:
        """Those in the user's cache; None where IM2SP_CACHE is `off`, and where the processor is not known."""
        wanted = os.environ.get(CACHE, "")
        if wanted == "off" or not _CPU.is_file():
            return None
        base = Path(wanted or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        return cls(base / "im2sp" / "graphs") if base.is_absolute() else None

    @staticmethod
    def suits(path: Path) -> bool:
        """Whether a graph is large enough to be kept, and not too large."""
        return SMALLEST <= graph_bytes(path) <= LARGEST

    def find(self, bundle: Bundle, name: str) -> Path | None:
        """The optimised graph of that name, verified; None where there is none."""
        entry = self._entry(bundle, name)
        if not (_is_ours(self._folder) and _is_ours(entry)):
            return None
        try:
            listed = verify_checksums(entry)
        except BundleError:
            self.drop(bundle, name)
            return None
        if GRAPH not in listed or not set(listed) <= {GRAPH, WEIGHTS}:
            return None
        with suppress(OSError):
            os.utime(entry)  # the oldest go first
        return entry / GRAPH

    @contextmanager
    def keeping(self, bundle: Bundle, name: str) -> Iterator[Path]:
        """Yield the path under which the graph shall be written, its weights beside it as WEIGHTS. It is kept when the
        block succeeds, whole or not at all. Raises OSError where the folder cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(self._folder):
            raise PermissionError(f"{self._folder} is not a folder that only its owner can write")
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".", ignore_cleanup_errors=True) as work:
            made = Path(work) / "made"
            made.mkdir(mode=0o700)
            yield made / GRAPH
            write_checksums(made)
            with suppress(OSError):  # another process was faster
                made.rename(self._entry(bundle, name))
        self._sweep()

    def drop(self, bundle: Bundle, name: str) -> None:
        """Forget a graph."""
        shutil.rmtree(self._entry(bundle, name), ignore_errors=True)

    def _entry(self, bundle: Bundle, name: str) -> Path:
        import onnxruntime

        made_of = [str(_LAYOUT), name, onnxruntime.__version__, onnxruntime.get_build_info(), _processor()]
        made_of += [f"{digest} {file}" for file, digest in sorted(bundle.checksums.items())]
        return self._folder / hashlib.sha256("\n".join(made_of).encode()).hexdigest()

    def _sweep(self) -> None:
        """Delete the graphs that were not used for longest, and what a process left that was killed."""
        with suppress(OSError):
            ages = {entry: entry.stat().st_mtime for entry in self._folder.iterdir()}
            kept = sorted((entry for entry in ages if not entry.name.startswith(".")), key=ages.__getitem__)
            left = [entry for entry in ages if entry.name.startswith(".") and ages[entry] < time.time() - _ABANDONED]
            for entry in (*kept[:-MOST_GRAPHS], *left):
                shutil.rmtree(entry, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """A folder, not a link, that belongs to this user and that no other may write."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _processor() -> str:
    """What the layout of weights depends on: the first processor of the list, above all its instruction sets."""
    with _CPU.open(encoding="utf-8", errors="replace") as file:
        first = takewhile(str.strip, file)  # an empty line ends it
        return os.uname().machine + "\n" + "".join(line for line in first if line.startswith(_CPU_LINES))
