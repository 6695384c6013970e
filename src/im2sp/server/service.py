"""The service behind the routes: a photo in, chunks of speech out, within the queue's places and a time limit."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from starlette.types import Scope

from im2sp.captioner import Captioner, SpeechChunk
from im2sp.decoding.options import DecodingOptions
from im2sp.errors import Im2SpError
from im2sp.server.metrics import Metrics
from im2sp.server.responses import Refusal
from im2sp.server.settings import Settings
from im2sp.server.worker import Job, Worker


class Service:
    """Captioner, worker and queue of one process, used from one event loop."""

    def __init__(self, captioner: Captioner, settings: Settings, metrics: Metrics) -> None:
        self.captioner = captioner
        self.settings = settings
        self.metrics = metrics
        self.worker = Worker(captioner, settings.batch, metrics)
        self._clients: Counter[str] = Counter()  # places that each client has
        metrics.queue.set_function(self._clients.total)

    def enter(self, scope: Scope) -> ExitStack:
        """Take a place in the queue for the client of `scope`; closing the stack gives it back.

        Before the photo is read, so that no memory is taken for what cannot be served. Raises Refusal 429 when all
        places, or those that one client may have, are taken.
        """
        client = client_of(scope.get("client"))
        if self._clients.total() >= self.settings.queue:
            raise Refusal(429, "the queue is full; try again in a moment", retry_after=self._wait())
        if self._clients[client] >= self.settings.max_per_client:
            sentence = "you have as many photos in the queue as one client may have"
            raise Refusal(429, sentence, retry_after=self._wait())
        self._clients[client] += 1
        place = ExitStack()
        place.callback(self._leave, client)
        return place

    def _leave(self, client: str) -> None:
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    def _wait(self) -> float:
        return self.worker.wait(self._clients.total())

    def options(self, min_confidence: float, **changes: Any) -> DecodingOptions:
        """Return the bundle's decoding options with changes. Raises Refusal 422 where the bundle is not calibrated."""
        options = replace(self.captioner.default_options, min_confidence=min_confidence, **changes)
        try:
            self.captioner.check(options)
        except Im2SpError as error:
            raise Refusal(422, "min_confidence: the model of this service is not calibrated; leave it out") from error
        return options

    async def speak(
        self,
        photo: bytes,
        options: DecodingOptions | None,
        place: ExitStack,
        *,
        streamed: bool,
        gone: Coroutine[Any, Any, None] | None = None,
    ) -> AsyncGenerator[SpeechChunk, None]:
        """Yield the speech about a photo; the last chunk has the caption. The worker gives the place back.

        `gone`: ends when the client has left; then the photo is dropped. Raises what the captioner raises, and Refusal
        503 when it takes too long.
        """
        job = Job(photo, options, streamed=streamed, release=place.pop_all().close)
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
            raise Refusal(503, sentence, retry_after=self._wait()) from error
        finally:
            job.cancel()
            if watch is not None:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch


def client_of(address: tuple[str, int] | None) -> str:
    """Return what a connection is counted as: its address; of IPv6 the network, as one household has 2^64 addresses."""
    if address is None:
        return "?"
    try:
        parsed = ipaddress.ip_address(address[0].partition("%")[0])
    except ValueError:
        return address[0]
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), 64), strict=False))
    return str(parsed)


async def _cancel_after(gone: Coroutine[Any, Any, None], job: Job) -> None:
    await gone
    job.cancel()
