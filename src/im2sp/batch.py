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
from typing import TYPE_CHECKING, Any

from im2sp.bundle import Bundle, find_bundle
from im2sp.errors import BundleError, GraphError, Im2SpError, OutputError, PlaybackError, about, reason, unexpected
from im2sp.files import CHECKSUMS, CHECKSUMS_LIMIT, open_regular
from im2sp.interrupts import deferred_interrupts, follow_parent, sigint_blocked
from im2sp.manifest import Manifest, Row, Version
from im2sp.onnx import Graphs
from im2sp.onnx.cache import GraphCache
from im2sp.playback import play
from im2sp.speech.whisper import WordRecogniser

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class _Job:
    """A photo to be captioned."""

    photo: Path
    image: ImageUnits | None  # in the place of the photo
    version: Version  # as it was before


def caption_photos(
    photos: Iterable[Path | StoredPhoto],
    config: CaptionerConfig,
    manifest: Manifest | None = None,
    sink: Sink | None = None,
    *,
    workers: int = 1,
    force: bool = False,
) -> Generator[Result, None, None]:
    """Caption photos, aloud where there is a sink, into the folder of a manifest where there is one.

    Each result is yielded when it is recorded. A photo that cannot be captioned gives a result with its error. Photos
    that the manifest lists as they are, with these options, are skipped, unless with `force`, which also opens the
    graphs before the first photo is asked for. `workers` above 1 need a manifest and take no sink; when the generator
    is closed early, their photos in progress are finished and recorded.

    Raises BundleError for an unusable bundle, OutputError when the folder cannot be written, PlaybackError when the
    sink fails, Im2SpError when a worker process dies.
    """
    if workers > 1 and manifest is not None:
        yield from _in_processes(_jobs(photos, config, manifest, force), config.for_workers(workers), manifest, workers)
        return
    worker = CaptionWorker(config)
    if force:
        worker.warm_up()
    for job in _jobs(photos, config, manifest, force):
        if isinstance(job, Result):
            yield job
            continue
        result = worker.caption(job.photo, manifest.wav_for(job.photo) if manifest else None, sink, job.image)
        yield _recorded(result, job.version, manifest)


def _jobs(
    photos: Iterable[Path | StoredPhoto], config: CaptionerConfig, manifest: Manifest | None, force: bool
) -> Iterator[_Job | Result]:
    """Yield what is to be captioned, and results of photos that are skipped."""
    options = config.digest() if manifest else ""
    for stored in photos:
        photo, image = (stored, None) if isinstance(stored, Path) else (stored.key, stored.units)
        if image is None:
            version = Version.of(photo, options)
        else:  # the units are a part of the options
            digest = hashlib.sha256(options.encode() + image.units.tobytes()).hexdigest()[:16]
            version = Version(len(image.units), 0, digest)
        skip = manifest is not None and not force and manifest.has(photo, version)
        yield Result(photo, skipped=True) if skip else _Job(photo, image, version)


def _recorded(result: Result, version: Version, manifest: Manifest | None) -> Result:
    if result.row is not None and manifest is not None:
        manifest.append(result.row, version)
    return result


def _in_processes(
    jobs: Iterable[_Job | Result], config: CaptionerConfig, manifest: Manifest, workers: int
) -> Generator[Result, None, None]:
    """Caption in several processes, each with a captioner of its own. Ctrl-C takes effect between photos."""
    import multiprocessing  # a single photo need not wait for these
    from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait

    spawn = multiprocessing.get_context("spawn")  # fork would copy locks of the runtime's threads
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=follow_parent)
    running: dict[Future[Result], Version] = {}

    def finished(most: int) -> Iterator[Result]:
        """Yield results until at most `most` photos are in progress."""
        while len(running) > most:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield _recorded(future.result(), running.pop(future), manifest)

    with deferred_interrupts() as check:
        try:
            for job in jobs:
                check()
                if isinstance(job, Result):
                    yield job
                    continue
                yield from finished(workers)  # one in the queue keeps all processes busy; more would delay a stop
                with sigint_blocked():
                    future = pool.submit(_caption_in_process, config, job, manifest.wav_for(job.photo))
                running[future] = job.version
            for result in finished(0):
                yield result
                check()
        except BrokenExecutor as error:
            sentence = "a worker process was ended from outside, perhaps for want of memory; use fewer --workers"
            raise Im2SpError(sentence) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for future, version in running.items():
                if not future.cancelled() and future.exception() is None:
                    with suppress(OutputError):  # the error that ended the run has been raised already
                        _recorded(future.result(), version, manifest)


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
        """Caption a photo, or the `image` that it stands for; play it where there is a sink; write its `wav`.

        Raises OutputError when the wav cannot be written, PlaybackError when the sink fails, GraphError.
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


_worker_of_process = lru_cache(maxsize=1)(CaptionWorker)


def _caption_in_process(config: CaptionerConfig, job: _Job, wav: Path) -> Result:
    return _worker_of_process(config).caption(job.photo, wav, image=job.image)
