"""Processes that the benchmarks start (workers behind a pipe, a service), and their memory. Linux."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from im2sp.errors import Im2SpError, reason

sys.path.append(str(Path(__file__).parents[1]))  # for the models of tests/train/convert


def positive(text: str) -> int:
    """Return a number of at least 1, of an option."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"give a whole number from 1 on, not {text}")
    return int(text)


@contextmanager
def sentences() -> Iterator[None]:
    """End the benchmark with one sentence on an Im2SpError or a file that cannot be read."""
    try:
        yield
    except Im2SpError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{error.filename}: {reason(error)}")


def memory(process: int | str = "self", kind: str = "VmHWM") -> int:
    """Return the bytes that a process has held at most, or holds (`VmRSS`); 0 where it is gone.

    `getrusage` would count what the parent held before a child began.
    """
    try:
        found = re.search(rf"{kind}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    files = Path(f"/proc/{process}/task").glob("*/children")
    return [int(number) for file in files for number in file.read_text().split()]


@contextmanager
def worker(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run `target(connection, *arguments)` in a fresh process; yield the other end of the connection."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *arguments))
    process.start()
    there.close()
    try:
        yield here
        process.join(60)
    finally:
        process.kill()
        here.close()


@contextmanager
def service(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `im2sp serve` on a free port; yield its address and process."""
    command = [sys.executable, "-m", "im2sp", "serve", "--port", "0", *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            if (found := re.search(r"https?://\S+", process.stdout.readline())) is None:
                sys.exit(1)  # it has said why
            yield found[0], process
        finally:
            process.terminate()
