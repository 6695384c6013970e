"""The service behind the routes: a photo in, chunks of speech out, within the queue's places and a time limit.

Photos are decoded in processes that can be ended (`im2sp.image.isolation`). Then one thread speaks about one after the
other. Speech is short, so a client that listens slowly never holds it up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Scope

from im2sp.arrays import FloatArray
from im2sp.captioner import Captioner, SpeechChunk
from im2sp.decoding.options import DecodingOptions
from im2sp.errors import Im2SpError
from im2sp.image.isolation import end_decoding
from im2sp.server.metrics import Metrics
from im2sp.server.responses import Refusal
from im2sp.server.settings import Settings
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.speech.whisper import WordRecogniser

_FIRST_GUESS = 0.5  # seconds a photo takes, until some have been captioned
_WEIGHT = 0.2  # of the latest photo in the moving average


class Job:
    """One photo in the queue: created, read and cancelled in the event loop, worked on in the thread that speaks."""

    def __init__(self, photo: bytes, place: ExitStack) -> None:
        """`place`: closed in the event loop when the job is over."""
        self.photo: bytes | None = photo
        self.pixels: FloatArray | None = None  # of the decoded photo, as the encoder takes them: a few megabytes
        self.created = time.perf_counter()
        self.cancelled = False
        self._place = place.pop_all()
        self._loop = asyncio.get_running_loop()
        self.items: asyncio.Queue[SpeechChunk | Exception] = asyncio.Queue()

    def cancel(self) -> None:
        """Give up and give the place back, in the event loop. What waits for a thread takes no memory any more."""
        self.cancelled = True
        self.photo = self.pixels = None
        self._place.close()
        self.items.put_nowait(ClientDisconnect())

    def deliver(self, item: SpeechChunk | Exception) -> None:
        """Hand over the next chunk, or what went wrong, from the thread."""
        with suppress(RuntimeError):  # the loop has been closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self.items.put_nowait, item)

    def finish(self) -> None:
        """Give the place back, from the thread."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._place.close)


class Service:
    """Captioner, thread and queue of one process, used from one event loop."""

    def __init__(
        self, captioner: Captioner, settings: Settings, metrics: Metrics, recogniser: WordRecogniser | None = None
    ) -> None:
        """`recogniser`: says what it heard, to those who ask."""
        self._recogniser = recogniser
        self._listening = asyncio.Semaphore(1)  # one after the other
        self.captioner = captioner
        self.settings = settings
        self.metrics = metrics
        self._decoding = ThreadPoolExecutor(settings.queue, thread_name_prefix="im2sp-decode")  # they only wait
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="im2sp")
        self._seconds = _FIRST_GUESS  # that a photo takes
        self._clients: Counter[str] = Counter()  # places that each client has
        metrics.queue.set_function(self._clients.total)

    def close(self) -> None:
        """Drop what is still being decoded, and finish every other photo that was accepted."""
        end_decoding()
        self._decoding.shutdown()
        self._thread.shutdown()

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

    async def listen(self, waveform: FloatArray) -> str | None:
        """Return the words that a recogniser hears: waveform float32 [samples] -> text; None where there is none."""
        if self._recogniser is None:
            return None
        async with self._listening:
            return await asyncio.to_thread(self._recogniser.text, waveform)

    def _leave(self, client: str) -> None:
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    def _wait(self) -> float:
        """Return the seconds until about half of the queue is done, by what photos took lately."""
        return self._seconds * max(1, self._clients.total()) / 2

    def options(self, min_confidence: float | None, always: bool, **changes: Any) -> DecodingOptions:
        """Return the bundle's decoding options with changes. Raises Refusal 422 where they do not fit the bundle."""
        if always and min_confidence:
            raise Refusal(422, "give always or min_confidence, not both")
        default = self.captioner.default_options
        options = replace(default, min_confidence=min_confidence, always_speak=always, **changes)
        try:
            self.captioner.check(options)
        except Im2SpError as error:
            raise Refusal(422, "min_confidence: the model of this service is not calibrated; leave it out") from error
        return options

    async def speak(
        self,
        photo: bytes,
        options: DecodingOptions,
        place: ExitStack,
        *,
        streamed: bool,
        gone: Coroutine[Any, Any, object],
    ) -> AsyncGenerator[SpeechChunk, None]:
        """Yield the speech about a photo; the last chunk has the caption. `place` goes back at the end.

        `gone`: ends when the client has left; then the photo is dropped. Raises what the captioner raises, and Refusal
        503 when it takes too long.
        """
        job = Job(photo, place)
        del photo  # the thread lets go of it as soon as it is decoded
        watch = asyncio.create_task(_cancel_after(gone, job))
        self._decoding.submit(self._decode, job, options, streamed)
        deadline = asyncio.get_running_loop().time() + self.settings.request_seconds
        try:
            while True:
                async with asyncio.timeout_at(deadline):
                    item = await job.items.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.caption is not None:
                    return
        except TimeoutError as error:
            sentence = f"there was no speech within {self.settings.request_seconds:g} seconds; try again later"
            raise Refusal(503, sentence, retry_after=self._wait()) from error
        finally:
            job.cancel()
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    def _decode(self, job: Job, options: DecodingOptions, streamed: bool) -> None:
        """Decode a photo in a process that can be ended; then it is the turn of the thread that speaks."""
        try:
            if (photo := job.photo) is not None:
                job.pixels = self.captioner.image_encoder.pixels(photo, isolated=True)
                del photo
            job.photo = None
            self._thread.submit(self._work, job, options, streamed)
        except Exception as error:
            job.deliver(error)
            job.finish()

    def _work(self, job: Job, options: DecodingOptions, streamed: bool) -> None:
        """Speak about one photo, in the thread."""
        started = time.perf_counter()
        first = True
        try:
            for chunk in self._chunks(job, options, streamed):
                if job.cancelled:
                    self.metrics.given_up.inc()
                    break
                if first:
                    self.metrics.first_sound_seconds.observe(time.perf_counter() - job.created)
                    first = False
                if chunk.caption is not None:
                    self.metrics.captions.inc()
                    self.metrics.speech_seconds.inc(len(chunk.caption.waveform) / SAMPLE_RATE)
                    self._seconds += _WEIGHT * (time.perf_counter() - started - self._seconds)
                job.deliver(chunk)
        except Exception as error:
            job.deliver(error)
        finally:
            job.finish()

    def _chunks(self, job: Job, options: DecodingOptions, streamed: bool) -> Iterator[SpeechChunk]:
        pixels = job.pixels
        if job.cancelled or pixels is None:
            self.metrics.given_up.inc()
            return
        (prefix,) = self.captioner.image_encoder.encode_pixels(pixels[None])
        if streamed:
            yield from self.captioner.stream(prefix, options)
        else:
            caption = self.captioner.caption(prefix, options)
            yield SpeechChunk(caption.waveform, caption.units, caption.durations, caption)


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


async def _cancel_after(gone: Coroutine[Any, Any, object], job: Job) -> None:
    await gone
    job.cancel()
