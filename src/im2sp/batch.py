"""Caption many photos: paths or stored image units in; wav files and captions.jsonl out, or speech played aloud.

The manifest of the output folder records every finished photo, so that a run continues where the last one stopped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from im2sp.bundle import Bundle, find_bundle
from im2sp.errors import (
    BundleError,
    GraphError,
    Im2SpError,
    OutputError,
    PlaybackError,
    about,
    reason,
    unexpected,
)
from im2sp.files import CHECKSUMS, CHECKSUMS_LIMIT, open_regular
from im2sp.interrupts import Interrupts, follow_parent, sigint_blocked
from im2sp.manifest import Manifest, Row, Version
from im2sp.onnx import Graphs
from im2sp.onnx.cache import GraphCache
from im2sp.playback import play
from im2sp.speech.whisper import WordRecogniser

if TYPE_CHECKING:
    from concurrent.futures import Future

    from im2sp.captioner import Captioner, SpeechCaption
    from im2sp.decoding.options import DecodingOptions
    from im2sp.image.loading import ImageSource
    from im2sp.image.unit_table import StoredPhoto
    from im2sp.image.units import ImageUnits
    from im2sp.playback import Sink


@dataclass(frozen=True)
class CaptionerConfig:
    """Bundle, threads and decoding options of a captioner; small enough to send to another process."""

    model: str = "default"  # argument of Captioner.from_pretrained
    threads: int = 0  # CPU threads of each process; 0: divide the cores among the processes
    decoding: tuple[tuple[str, int | float | None], ...] = ()  # fields of DecodingOptions that differ from the bundle's
    words: bool = False  # let a recogniser listen to every caption

    def for_workers(self, workers: int) -> CaptionerConfig:
        """Divide the cores of this machine among `workers` processes, unless `threads` is given."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self if self.threads or workers == 1 else replace(self, threads=max(1, cores // workers))

    def digest(self) -> str:
        """Return a digest of the bundle's files and the decoding options. Raises BundleError."""
        path = find_bundle(self.model) / CHECKSUMS
        try:
            with open_regular(path, CHECKSUMS_LIMIT) as file:
                made_with = file.read() + repr((sorted(self.decoding), self.words)).encode()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({reason(error)}): get the bundle again") from error
        return hashlib.sha256(made_with).hexdigest()[:16]

    def options(self, captioner: Captioner) -> DecodingOptions:
        """Return the bundle's decoding options with those of `decoding`. Raises Im2SpError for unsupported ones."""
        options = replace(captioner.default_options, **dict[str, Any](self.decoding))
        captioner.check(options)
        return options


@dataclass(frozen=True)
class Result:
    """Result of one photo: a row of the manifest, an error, or neither where it was skipped."""

    photo: Path
    row: Row | None = None  # captioned in this run
    error: str | None = None  # one sentence
    skipped: bool = False  # captioned by an earlier run


def caption_photos(
    photos: Iterable[Path | StoredPhoto],
    manifest: Manifest,
    config: CaptionerConfig,
    workers: int = 1,
    *,
    force: bool = False,
) -> Generator[Result, None, None]:
    """Caption each photo that the manifest does not list as it is, with these options, or all of them with `force`.

    Each result is yielded when it is recorded.

    A photo that cannot be captioned gives a result with its error. When the generator is closed early, photos in
    progress are finished and recorded. Ctrl-C takes effect between photos, a second Ctrl-C at once.

    Raises BundleError for an unusable bundle, OutputError when the folder cannot be written (a full disk), Im2SpError
    when a worker process dies.
    """
    executor: _Executor = _Inline(config) if workers == 1 else _Processes(config.for_workers(workers), workers)
    running: set[Future[Result]] = set()
    versions = _Versions(config)
    with Interrupts() as interrupts:
        try:
            for photo, image in map(_key_and_image, photos):
                interrupts.check()
                if manifest.has(photo, versions.note(photo, image)) and not force:
                    versions.of.pop(photo)
                    yield Result(photo, skipped=True)
                    continue
                for result in _wait(running, executor.waiting):
                    yield _recorded(result, manifest, versions)
                running.add(executor.submit(photo, manifest.wav_for(photo), image))
                for result in _wait(running, executor.running):
                    yield _recorded(result, manifest, versions)
            for result in _wait(running, 0):
                yield _recorded(result, manifest, versions)
                interrupts.check()
        finally:
            executor.shutdown()
            for future in running:
                if not future.cancelled() and future.exception() is None:
                    with suppress(OutputError):  # the error that ended the run has been raised already
                        _recorded(future.result(), manifest, versions)


def caption_live(
    photos: Iterable[Path | StoredPhoto],
    config: CaptionerConfig,
    manifest: Manifest | None = None,
    sink: Sink | None = None,
) -> Generator[Result, None, None]:
    """Caption each photo as it comes, aloud where there is a sink, recorded where there is a manifest.

    Unlike `caption_photos`, this loads the captioner before it asks for the first photo, captions photos of the
    manifest again, and stops at once on Ctrl-C. Raises the errors of `caption_photos`, and PlaybackError.
    """
    worker = CaptionWorker(config)
    worker.warm_up()
    versions = _Versions(config)
    for photo, image in map(_key_and_image, photos):
        if manifest is None:
            yield worker.caption(photo, None, sink, image)
            continue
        versions.note(photo, image)
        yield _recorded(worker.caption(photo, manifest.wav_for(photo), sink, image), manifest, versions)


def _key_and_image(photo: Path | StoredPhoto) -> tuple[Path, ImageUnits | None]:
    return (photo, None) if isinstance(photo, Path) else (photo.key, photo.units)


class _Versions:
    """Versions of the photos that are being captioned, as they were before that."""

    def __init__(self, config: CaptionerConfig) -> None:
        self.of: dict[Path, Version] = {}
        self._options = config.digest()

    def note(self, photo: Path, image: ImageUnits | None) -> Version:
        """Look at a photo; image units in its place are a part of the options."""
        if image is None:
            self.of[photo] = Version.of(photo, self._options)
        else:
            digest = hashlib.sha256(self._options.encode() + image.units.tobytes()).hexdigest()[:16]
            self.of[photo] = Version(len(image.units), 0, digest)
        return self.of[photo]


def _recorded(result: Result, manifest: Manifest, versions: _Versions) -> Result:
    version = versions.of.pop(result.photo, None)  # None: the photo was given twice
    if result.row is not None:
        manifest.append(result.row, version or Version.of(result.photo, ""))
    return result


class CaptionWorker:
    """Captioner of one process: photo in, wav file and Result out."""

    def __init__(self, config: CaptionerConfig) -> None:
        """Open the bundle. Raises BundleError for an unusable one; an invalid graph raises when it is first used."""
        from im2sp.captioner import Captioner

        bundle = Bundle.load(find_bundle(config.model))
        self._captioner = Captioner(bundle, graphs=Graphs(bundle, config.threads, GraphCache.of_user()))
        self._options = config.options(self._captioner)
        self._recogniser = WordRecogniser(bundle.config.language, config.threads or 1) if config.words else None

    def warm_up(self) -> None:
        """Open all graphs of a caption now. Raises GraphError for one that cannot be opened."""
        self._captioner.graphs.check(self._captioner.bundle.config.speaking_graphs)

    def caption(
        self,
        photo: Path,
        wav: Path | None,
        sink: Sink | None = None,
        image: ImageSource | ImageUnits | None = None,
    ) -> Result:
        """Caption a photo, play it where there is a sink, and write its wav where `wav` is a path.

        `image`: what to caption where `photo` is only a key of the manifest. Raises OutputError when the wav cannot be
        written, PlaybackError when the sink fails, GraphError for a broken bundle.
        """
        caption = self.try_caption(photo if image is None else image, str(photo), sink)
        if isinstance(caption, str):
            return Result(photo, error=caption)
        if wav:
            _save(caption, wav)
        return Result(photo, self.row(caption, photo, wav.name if wav else ""))

    def row(self, caption: SpeechCaption, photo: Path, wav: str) -> Row:
        """Return the line of the manifest about a caption. `wav`: the name of its file."""
        return Row(
            image=os.path.abspath(photo),
            wav=wav,
            units=caption.units.tolist(),
            durations=caption.durations.tolist(),
            score=round(caption.score, 4),
            seconds=round(caption.seconds, 3),
            confidence=None if caption.confidence is None else round(caption.confidence, 4),
            hedged=caption.hedged,
            heard=self._recogniser.text(caption.waveform) if self._recogniser else None,
            abstained=caption.abstained,
        )

    def try_caption(self, image: ImageSource | ImageUnits, name: str, sink: Sink | None = None) -> SpeechCaption | str:
        """Caption an image, or return one sentence about `name` that says why it cannot be captioned.

        Raises PlaybackError and GraphError, which would fail every photo.
        """
        try:
            if sink is None:
                return self._captioner.caption(image, self._options)
            with closing(self._captioner.stream(image, self._options)) as chunks:
                return play(chunks, sink)
        except (PlaybackError, GraphError):
            raise
        except Im2SpError as error:
            return about(name, error)
        except Exception as error:  # a defect must not stop the other photos
            return f"{name}: {unexpected(error)}"


def _save(caption: SpeechCaption, wav: Path) -> None:
    """Write a wav of an output folder: not outside through a link, nor into a folder that has been removed."""
    if not wav.parent.is_dir():
        raise OutputError(f"{wav.parent}: was removed during the run; run the same command again")
    try:
        if wav.is_symlink():
            wav.unlink()
        caption.save(wav)
    except (Im2SpError, OSError) as error:
        raise OutputError(str(error)) from error


class _Executor(Protocol):
    """Runs CaptionWorker.caption in this process or in others."""

    waiting: int  # photos in progress at most before another one is submitted
    running: int  # photos in progress at most before another one is asked for

    def submit(self, photo: Path, wav: Path, image: ImageUnits | None) -> Future[Result]: ...

    def shutdown(self) -> None:
        """Finish the photos in progress, cancel the others."""
        ...


class _Inline:
    """Captions in this process; loads the captioner for the first photo."""

    waiting = running = 0

    def __init__(self, config: CaptionerConfig) -> None:
        self._config = config
        self._worker: CaptionWorker | None = None

    def submit(self, photo: Path, wav: Path, image: ImageUnits | None) -> Future[Result]:
        from concurrent.futures import Future

        self._worker = self._worker or CaptionWorker(self._config)
        future: Future[Result] = Future()
        future.set_result(self._worker.caption(photo, wav, image=image))
        return future

    def shutdown(self) -> None:
        pass


class _Processes:
    """Captions in several processes, each with a captioner of its own."""

    def __init__(self, config: CaptionerConfig, count: int) -> None:
        import multiprocessing  # a single photo need not wait for these
        from concurrent.futures import ProcessPoolExecutor

        self._config = config
        self.waiting = count  # one photo in the queue keeps all processes busy; more would delay a stop
        self.running = count + 1
        spawn = multiprocessing.get_context("spawn")  # fork would copy locks of the runtime's threads
        self._pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=follow_parent)

    def submit(self, photo: Path, wav: Path, image: ImageUnits | None) -> Future[Result]:
        from concurrent.futures import BrokenExecutor

        try:
            with sigint_blocked():
                return self._pool.submit(_caption_in_process, self._config, photo, wav, image)
        except BrokenExecutor as error:
            raise _worker_died() from error

    def shutdown(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _wait(running: set[Future[Result]], most: int) -> Iterator[Result]:
    """Yield results until at most `most` photos are in progress."""
    from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, wait

    while len(running) > most:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            running.discard(future)
            try:
                result = future.result()
            except BrokenExecutor as error:
                raise _worker_died() from error
            yield result


def _worker_died() -> Im2SpError:
    return Im2SpError("a worker process was ended from outside, perhaps for want of memory; use fewer --workers")


_worker_of_process = lru_cache(maxsize=1)(CaptionWorker)


def _caption_in_process(config: CaptionerConfig, photo: Path, wav: Path, image: ImageUnits | None) -> Result:
    return _worker_of_process(config).caption(photo, wav, image=image)
