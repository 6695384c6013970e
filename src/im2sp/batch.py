"""Many photos in, their spoken captions in one folder out, or aloud: streamed, in one or several processes.

What is done stands in the folder's journal, so a run goes on where the last one stopped, however that one ended.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, Self

from im2sp.bundle import Bundle, find_bundle
from im2sp.errors import Im2SpError, about, unexpected
from im2sp.manifest import Journal, OutputError, Record
from im2sp.onnx import GraphError, Graphs, load_runtime_soon
from im2sp.optimised import OptimisedGraphs
from im2sp.playing import PlaybackError, play

if TYPE_CHECKING:
    from im2sp.captioner import Captioner, SpeechCaption
    from im2sp.decoding.search import DecodingOptions
    from im2sp.image.loading import ImageSource
    from im2sp.image.stored import StoredPhoto
    from im2sp.image.units import ImageUnits
    from im2sp.playing import Sink


@dataclass(frozen=True)
class Voice:
    """What speaks, and how."""

    model: str = "default"  # what Captioner.from_pretrained takes
    threads: int = 0  # CPU threads of each process; 0: the cores, shared out between the processes
    decoding: tuple[tuple[str, int | float], ...] = ()  # fields of DecodingOptions that differ from the bundle's

    def shared_by(self, workers: int) -> Voice:
        """The same with threads for each of so many processes."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self if self.threads or workers == 1 else replace(self, threads=max(1, cores // workers))

    def options(self, captioner: Captioner) -> DecodingOptions:
        """How the captioner is to decode. Raises Im2SpError for what its bundle cannot do."""
        options = replace(captioner.default_options, **dict[str, Any](self.decoding))
        captioner.check(options)
        return options


@dataclass(frozen=True)
class Outcome:
    """What became of a photo."""

    photo: Path
    record: Record | None = None  # when it was spoken in this run
    error: str | None = None  # why it could not be spoken, in one sentence
    skipped: bool = False  # it had been spoken before


def speak_photos(
    photos: Iterable[Path | StoredPhoto], journal: Journal, voice: Voice, workers: int = 1
) -> Generator[Outcome, None, None]:
    """Speak about each photo that the journal does not know yet; each outcome comes as soon as it is on record.

    A photo that cannot be spoken is an outcome like any other. When the iteration is left early, the photos that are
    being spoken are finished and recorded. Ctrl-C is heard between photos; a second one at once.

    Raises BundleError for a bundle that cannot be used, OutputError when the folder cannot be written (a full disk),
    Im2SpError when a worker process dies.
    """
    voices: Voices = _Here(voice) if workers == 1 else _several(voice, workers)
    with _Interrupts() as interrupts:
        try:
            for photo, image in map(_named, photos):
                interrupts.check()
                if journal.is_spoken(photo):
                    yield Outcome(photo, skipped=True)
                    continue
                for outcome in voices.speak(photo, journal.wav_for(photo), image):
                    yield _recorded(outcome, journal)
            for outcome in voices.rest():
                yield _recorded(outcome, journal)
                interrupts.check()
        finally:
            for outcome in voices.close():
                with suppress(OutputError):  # what broke the run off has been said; next time these are spoken again
                    _recorded(outcome, journal)


def speak_in_turn(
    photos: Iterable[Path | StoredPhoto], voice: Voice, journal: Journal | None = None, sink: Sink | None = None
) -> Generator[Outcome, None, None]:
    """Speak about each photo when it comes, aloud where there is a sink, on record where there is a journal.

    Unlike in `speak_photos`, the voice is ready before the first photo comes, photos on record are spoken again, and
    Ctrl-C is heard at once. Raises what `speak_photos` raises, and PlaybackError.
    """
    speaker = Speaker(voice)
    speaker.wait()
    for photo, image in map(_named, photos):
        outcome = speaker.speak(photo, journal.wav_for(photo) if journal else None, sink, image)
        yield _recorded(outcome, journal) if journal else outcome


def _named(photo: Path | StoredPhoto) -> tuple[Path, ImageUnits | None]:
    """What stands for a photo on record, and what to look at where that is no file."""
    return (photo, None) if isinstance(photo, Path) else (photo.key, photo.units)


def _recorded(outcome: Outcome, journal: Journal) -> Outcome:
    if outcome.record is not None:
        journal.append(outcome.record)
    return outcome


class Speaker:
    """The captioner of one process."""

    def __init__(self, voice: Voice) -> None:
        """Raises BundleError for a bundle that cannot be used; where it is a graph, `wait` or the first `speak` do."""
        load_runtime_soon()
        bundle = Bundle.load(find_bundle(voice.model))
        graphs = Graphs(bundle, voice.threads, OptimisedGraphs.of_user())
        self._opening = graphs.open_soon(bundle.config.speaking_graphs)
        from im2sp.captioner import Captioner  # while graphs are being opened, and so is the first photo

        self._captioner = Captioner(bundle, graphs=graphs)
        self._options = voice.options(self._captioner)

    def wait(self) -> None:
        """Return when all graphs are open. Raises GraphError for one that cannot be opened."""
        for opening in self._opening:
            opening.result()

    def speak(
        self,
        photo: Path,
        wav: Path | None,
        sink: Sink | None = None,
        image: ImageSource | ImageUnits | None = None,
    ) -> Outcome:
        """Caption a photo, aloud where there is a sink, and write its wav where that has a path.

        `image`: what to look at where `photo` is a name on record and not a file. Raises OutputError when the wav
        cannot be written, PlaybackError when the sink takes no more, GraphError when the bundle is broken.
        """
        caption = self.say(photo if image is None else image, str(photo), sink)
        if isinstance(caption, str):
            return Outcome(photo, error=caption)
        try:
            if wav:
                caption.save(wav)
        except Im2SpError as error:
            raise OutputError(str(error)) from error
        name = wav.name if wav else ""
        units, durations = caption.units.tolist(), caption.durations.tolist()
        record = Record(
            os.path.abspath(photo),
            name,
            units,
            durations,
            round(caption.score, 4),
            round(caption.seconds, 3),
            None if caption.confidence is None else round(caption.confidence, 4),
            caption.withheld,
        )
        return Outcome(photo, record)

    def say(self, image: ImageSource | ImageUnits, name: str, sink: Sink | None = None) -> SpeechCaption | str:
        """A caption, spoken aloud where there is a sink; or why there is none, in a sentence about `name`.

        Raises PlaybackError when the sink takes no more, GraphError when the bundle is broken.
        """
        try:
            return self._caption(image, sink)
        except (PlaybackError, GraphError):  # would fail every photo
            raise
        except Im2SpError as error:
            return about(name, error)
        except Exception as error:  # a defect of ours must not silence the other photos
            return f"{name}: {unexpected(error)}"

    def _caption(self, photo: ImageSource | ImageUnits, sink: Sink | None) -> SpeechCaption:
        if sink is None:
            return self._captioner.caption(photo, self._options)
        with closing(self._captioner.stream(photo, self._options)) as chunks:
            return play(chunks, sink)


class Voices(Protocol):
    """One or several speakers at work."""

    def speak(self, photo: Path, wav: Path, image: ImageUnits | None) -> Iterator[Outcome]:
        """Take on a photo; give what is done by now."""
        ...

    def rest(self) -> Iterator[Outcome]:
        """Give what is still being spoken."""
        ...

    def close(self) -> Iterator[Outcome]:
        """Stop; give what was spoken and not yet given."""
        ...


class _Here:
    """Speaks in this process."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._speaker: Speaker | None = None

    def speak(self, photo: Path, wav: Path, image: ImageUnits | None) -> Iterator[Outcome]:
        if self._speaker is None:  # not before there is something to say
            self._speaker = Speaker(self._voice)
        yield self._speaker.speak(photo, wav, image=image)

    def rest(self) -> Iterator[Outcome]:
        return iter(())

    def close(self) -> Iterator[Outcome]:
        return iter(())


def _several(voice: Voice, workers: int) -> Voices:
    from im2sp.workers import Workers  # and with it all that starts processes, which one photo need not wait for

    return Workers(voice.shared_by(workers), workers)


class _Interrupts:
    """Ctrl-C, noted when it comes and raised by `check`, where nothing is half done; a second one is raised at once.

    Raised inside the process pool it could leave a lock taken, and the run would hang instead of ending.
    """

    def __init__(self) -> None:
        self._noted = False
        self._before = signal.getsignal(signal.SIGINT)
        here = threading.current_thread() is threading.main_thread()  # no other thread may set handlers, or needs to
        self._ours = here and callable(self._before)  # a run in the background may have been told to ignore Ctrl-C

    def __enter__(self) -> Self:
        if self._ours:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was one."""
        if self._noted:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        signal.signal(signal.SIGINT, self._before)
