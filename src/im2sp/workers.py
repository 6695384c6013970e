"""Several processes that speak about photos, each with a captioner of its own (`im2sp.batch`)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from im2sp.batch import Outcome, Speaker, Voice
from im2sp.errors import Im2SpError
from im2sp.image.units import ImageUnits


class Workers:
    """Speaks in several processes, each with a captioner of its own; photos wait here until one is nearly free."""

    def __init__(self, voice: Voice, count: int) -> None:
        self._voice = voice
        self._most = count + 1  # one in waiting keeps all at work; more would only delay a stop
        spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads of the runtime half
        self._pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=_start_worker)
        self._running: set[Future[Outcome]] = set()

    def speak(self, photo: Path, wav: Path, image: ImageUnits | None) -> Iterator[Outcome]:
        yield from self._finished(self._most - 1)
        try:
            with _interrupts_held():  # which a new process inherits
                self._running.add(self._pool.submit(_speak_in_worker, self._voice, photo, wav, image))
        except BrokenProcessPool as error:
            raise _died() from error

    def rest(self) -> Iterator[Outcome]:
        return self._finished(0)

    def close(self) -> Iterator[Outcome]:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for future in self._running:
            if not future.cancelled() and future.exception() is None:
                yield future.result()

    def _finished(self, most: int) -> Iterator[Outcome]:
        """Outcomes, until at most `most` photos are left in work."""
        while len(self._running) > most:
            for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                self._running.discard(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool as error:
                    raise _died() from error
                yield outcome


def _died() -> Im2SpError:
    return Im2SpError("a worker process was ended from outside, perhaps for want of memory; use fewer --workers")


@lru_cache(maxsize=1)
def _speaker(voice: Voice) -> Speaker:
    return Speaker(voice)


def _speak_in_worker(voice: Voice, photo: Path, wav: Path, image: ImageUnits | None) -> Outcome:
    return _speaker(voice).speak(photo, wav, image=image)


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment, which a process that is started meanwhile does for its whole life.

    On Windows workers may hear it until `_start_worker`.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
