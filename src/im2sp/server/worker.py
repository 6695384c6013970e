"""The worker: a thread that speaks about one photo after the other; photos in, chunks of speech out to the event loop.

Photos that wait together go through the image encoder together. The queue is bounded by whoever lets photos in
(`service`); speech is short, so that a client who listens slowly never holds up the worker.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import numpy as np
from starlette.requests import ClientDisconnect

from im2sp.arrays import FloatArray
from im2sp.captioner import Captioner, SpeechChunk
from im2sp.decoding.decoder import Prefix
from im2sp.decoding.options import DecodingOptions
from im2sp.server.metrics import Metrics
from im2sp.speech.audio import SAMPLE_RATE

_FIRST_GUESS = 0.5  # seconds a photo takes, until some have been seen
_WEIGHT = 0.2  # of the latest photo in the mean


class Job:
    """One photo on its way. Made, read and cancelled in the event loop; worked on in the worker's thread."""

    def __init__(
        self, photo: bytes, options: DecodingOptions | None, *, streamed: bool, release: Callable[[], None]
    ) -> None:
        """`streamed`: chunks as they are ready, or all in one. `release`: called in the event loop at the end."""
        self.photo: bytes | None = photo
        self.options = options
        self.streamed = streamed
        self.made = time.perf_counter()
        self.cancelled = False
        self._release = release
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[SpeechChunk | Exception] = asyncio.Queue()

    async def chunks(self) -> AsyncIterator[SpeechChunk]:
        """The speech; the last chunk has the caption. Raises what the captioner did; ClientDisconnect if cancelled."""
        while True:
            item = await self._items.get()
            if isinstance(item, Exception):
                raise item
            yield item
            if item.caption is not None:
                return

    def cancel(self) -> None:
        """Nobody waits any more. In the event loop."""
        self.cancelled = True
        self._items.put_nowait(ClientDisconnect())

    def deliver(self, item: SpeechChunk | Exception) -> None:
        """From the worker's thread: hand over the next chunk, or what went wrong."""
        self._call(self._items.put_nowait, item)

    def finish(self) -> None:
        """From the worker's thread: nothing more will come."""
        self.photo = None
        self._call(self._release)

    def _call(self, *call: object) -> None:
        with suppress(RuntimeError):  # the loop has been closed: nobody is left to tell
            self._loop.call_soon_threadsafe(*call)  # type: ignore[arg-type]


class Worker:
    """Speaks in a thread of its own, from `start` to `close`."""

    def __init__(self, captioner: Captioner, batch: int, metrics: Metrics) -> None:
        """`batch`: most photos that the image encoder sees at once."""
        self.captioner = captioner
        self._batch = batch
        self._metrics = metrics
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._seconds = _FIRST_GUESS
        self._thread = threading.Thread(target=self._run, name="im2sp-worker")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Finish every job that was put, then end."""
        self._jobs.put(None)
        self._thread.join()

    def put(self, job: Job) -> None:
        """Take on a photo."""
        self._jobs.put(job)

    def wait(self, waiting: int) -> float:
        """Seconds until about half of `waiting` photos are done, by what photos took lately."""
        return self._seconds * max(1, waiting) / 2

    def _run(self) -> None:
        while (jobs := self._next())[-1] is not None:
            self._speak_all([job for job in jobs if job is not None])
        self._speak_all([job for job in jobs if job is not None])

    def _next(self) -> list[Job | None]:
        """What waits, at most a batch, after waiting for the first; None at the end means that no more will come."""
        jobs = [self._jobs.get()]
        while jobs[-1] is not None and len(jobs) < self._batch:
            try:
                jobs.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        return jobs

    def _speak_all(self, jobs: list[Job]) -> None:
        started = time.perf_counter()
        seen: list[tuple[Job, FloatArray]] = []
        for job in jobs:
            pixels = self._look(job)
            if pixels is None:
                job.finish()
            else:
                seen.append((job, pixels))
        if not seen:
            return
        self._metrics.batch_size.observe(len(seen))
        try:
            prefixes = self.captioner.encode_pixels(np.stack([pixels for _, pixels in seen]))
        except Exception as error:
            for job, _ in seen:
                job.deliver(error)
                job.finish()
            return
        for (job, _), prefix in zip(seen, prefixes, strict=True):
            self._speak(job, prefix)
        self._seconds += _WEIGHT * ((time.perf_counter() - started) / len(seen) - self._seconds)

    def _look(self, job: Job) -> FloatArray | None:
        """Pixels float32 [3, height, width], or None where there is nothing more to do."""
        if job.cancelled or job.photo is None:
            self._metrics.given_up.inc()
            return None
        try:
            return self.captioner.pixels(job.photo)
        except Exception as error:  # of one photo: the others are not to blame
            job.deliver(error)
            return None
        finally:
            job.photo = None

    def _speak(self, job: Job, prefix: Prefix) -> None:
        silent = True
        try:
            for chunk in self._chunks(job, prefix):
                if job.cancelled:
                    self._metrics.given_up.inc()
                    break
                if silent:
                    self._metrics.first_sound_seconds.observe(time.perf_counter() - job.made)
                    silent = False
                if chunk.caption is not None:
                    self._metrics.captions.inc()
                    self._metrics.speech_seconds.inc(len(chunk.caption.waveform) / SAMPLE_RATE)
                job.deliver(chunk)
        except Exception as error:
            job.deliver(error)
        finally:
            job.finish()

    def _chunks(self, job: Job, prefix: Prefix) -> Iterator[SpeechChunk]:
        if job.streamed:
            yield from self.captioner.stream(prefix, job.options)
        else:
            caption = self.captioner.caption(prefix, job.options)
            yield SpeechChunk(caption.waveform, caption.units, caption.durations, caption)
