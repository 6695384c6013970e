"""The service behind the routes: a photo in, chunks of speech out, within a place in the queue and a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from starlette.types import Scope

from im2sp.captioner import Captioner
from im2sp.decoding.search import DecodingOptions
from im2sp.errors import Im2SpError
from im2sp.server.admission import Admission, RateLimit, Slot, client_of
from im2sp.server.metrics import Metrics
from im2sp.server.refusals import Refusal
from im2sp.server.settings import Settings
from im2sp.server.worker import Job, Worker
from im2sp.streaming import SpeechChunk


class Service:
    """Captioner, worker and queue of one process."""

    def __init__(self, captioner: Captioner, settings: Settings, metrics: Metrics) -> None:
        self.captioner = captioner
        self.settings = settings
        self.metrics = metrics
        self.worker = Worker(captioner, settings.batch, metrics)
        self.rate = RateLimit(settings.rate)
        self._admission = Admission(settings.queue, settings.max_per_client, self.worker.wait)
        metrics.queue.set_function(lambda: self._admission.taken)

    @asynccontextmanager
    async def place(self, scope: Scope) -> AsyncIterator[Slot]:
        """A place in the queue for the client of `scope`, given back at the end unless a job keeps it longer.

        Raises Refusal 429 when there is none.
        """
        slot = self._admission.enter(client_of(scope.get("client")))
        try:
            yield slot
        finally:
            if not slot.kept:
                slot.release()

    async def speak(
        self,
        photo: bytes,
        options: DecodingOptions | None,
        place: Slot,
        *,
        streamed: bool,
        gone: Coroutine[Any, Any, None] | None = None,
    ) -> AsyncGenerator[SpeechChunk, None]:
        """Speech about a photo; the last chunk has the caption. The place is kept until the worker is done with it.

        `gone`: ends when the client has left, who is then not worked for. Raises what the captioner raises, and
        Refusal 503 when it takes too long.
        """
        job = Job(photo, options, streamed=streamed, release=place.release)
        place.kept = True
        del photo  # the job lets go of it as soon as it is decoded
        watch = asyncio.create_task(_cancel_after(gone, job)) if gone is not None else None
        self.worker.put(job)
        chunks = job.chunks()
        deadline = asyncio.get_running_loop().time() + self.settings.request_seconds
        try:
            while True:
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(chunks)
                yield chunk
                if chunk.caption is not None:
                    return
        except TimeoutError as error:
            sentence = f"there was no speech within {self.settings.request_seconds:g} seconds; try again later"
            raise Refusal(503, sentence, retry_after=self.worker.wait(self._admission.taken)) from error
        finally:
            job.cancel()
            if watch is not None:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch


def with_min_confidence(captioner: Captioner, options: DecodingOptions, least: float) -> DecodingOptions:
    """The options with this `min_confidence`. Raises Refusal 422 where the model is not calibrated."""
    options = replace(options, min_confidence=least)
    try:
        captioner.check(options)
    except Im2SpError as error:
        raise Refusal(422, "min_confidence: the model of this service is not calibrated; leave it out") from error
    return options


async def _cancel_after(gone: Coroutine[Any, Any, None], job: Job) -> None:
    await gone
    job.cancel()
