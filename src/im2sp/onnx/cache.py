"""Cache of optimised graphs: a bundle's graph in, the graph as onnxruntime optimised it on this machine out.

Weights stored in few bits are widened, folded and laid out for the processor whenever a graph is opened. The cache
keeps the result, 73 MB for the default bundle. That saves 21 % of a cold start: 0.56 s against 0.71 s of CPU time for
`im2sp caption` of one photo (medians of 10 alternating runs; wall time likewise).

An entry is a folder of `graph.onnx` and `weights.bin`. Its name is a hash of all that it was made of: the checksums of
the bundle, onnxruntime and the processor. It counts only if nobody but this user could have written it, and it appears
when it is complete and on the disk. So it needs no checksums, which would cost a third of what it saves.
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
from im2sp.onnx.external_data import graph_bytes

CACHE = "IM2SP_CACHE"  # environment variable: a folder in place of the user's cache, or `off`
GRAPH, WEIGHTS = "graph.onnx", "weights.bin"
MAX_GRAPHS = 12  # kept, about 20 MB each; those of three bundles
MIN_BYTES = 2**19  # of a graph; smaller ones are open before an entry is verified
MAX_BYTES = 2**26  # larger ones would take as much of the disk once more, and are mapped where they are

_LAYOUT = 1  # of the entries
_ABANDONED = 3_600  # seconds, after which a partly written folder is deleted
_CPU = Path("/proc/cpuinfo")
_CPU_LINES = ("model name", "flags", "Features", "CPU implementer", "CPU part")  # of x86 and of Arm


class GraphCache:
    """Optimised graphs in a folder. Safe to share between threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_user(cls) -> GraphCache | None:
        """Open the user's cache; None where IM2SP_CACHE is `off`, and where the processor is not known."""
        wanted = os.environ.get(CACHE, "")
        if wanted == "off" or not _CPU.is_file():
            return None
        base = Path(wanted or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        return cls(base / "im2sp" / "graphs") if base.is_absolute() else None

    @staticmethod
    def accepts(path: Path) -> bool:
        """Whether a graph has a size worth caching."""
        return MIN_BYTES <= graph_bytes(path) <= MAX_BYTES

    def find(self, bundle: Bundle, name: str) -> Path | None:
        """Return the optimised graph of that name, or None."""
        entry = self._entry(bundle, name)
        if not (_is_private(self._folder) and _is_private(entry)):
            return None
        with suppress(OSError):
            os.utime(entry)  # the least recently used are deleted first
        return entry / GRAPH

    @contextmanager
    def storing(self, bundle: Bundle, name: str) -> Iterator[Path]:
        """Yield the path to write the graph to, its weights beside it as WEIGHTS; keep both when the block succeeds.

        Raises OSError where the folder cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(self._folder):
            raise PermissionError(f"{self._folder} is not a folder that only its owner can write")
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".", ignore_cleanup_errors=True) as work:
            entry = Path(work) / "entry"
            entry.mkdir(mode=0o700)
            yield entry / GRAPH
            for path in entry.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            with suppress(OSError):  # another process was faster
                entry.rename(self._entry(bundle, name))
        self._sweep()

    def drop(self, bundle: Bundle, name: str) -> None:
        """Delete a graph."""
        shutil.rmtree(self._entry(bundle, name), ignore_errors=True)

    def _entry(self, bundle: Bundle, name: str) -> Path:
        import onnxruntime

        key = [str(_LAYOUT), name, onnxruntime.__version__, onnxruntime.get_build_info(), _processor()]
        key += [f"{digest} {file}" for file, digest in sorted(bundle.checksums.items())]
        return self._folder / hashlib.sha256("\n".join(key).encode()).hexdigest()

    def _sweep(self) -> None:
        """Delete the least recently used graphs, and what a killed process left."""
        with suppress(OSError):
            ages = {entry: entry.stat().st_mtime for entry in self._folder.iterdir()}
            kept = sorted((entry for entry in ages if not entry.name.startswith(".")), key=ages.__getitem__)
            left = [entry for entry in ages if entry.name.startswith(".") and ages[entry] < time.time() - _ABANDONED]
            for entry in (*kept[:-MAX_GRAPHS], *left):
                shutil.rmtree(entry, ignore_errors=True)


def _is_private(folder: Path) -> bool:
    """Whether it is a folder, not a link, that belongs to this user and that nobody else may write."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _processor() -> str:
    """Describe what the layout of weights depends on: the first processor, above all its instruction sets."""
    with _CPU.open(encoding="utf-8", errors="replace") as file:
        first = takewhile(str.strip, file)  # an empty line ends it
        return os.uname().machine + "\n" + "".join(line for line in first if line.startswith(_CPU_LINES))
