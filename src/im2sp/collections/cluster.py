"""Shards in, their results out, made by workers on Ray Data; the only module that imports ray, and only when used.

Each worker is an actor with a model of its own, to which Ray Data hands one shard after the other. Only descriptions
of shards and counts go through Ray; photos and speech go straight from and to the disk. When a worker dies, Ray starts
another one and hands it the same shard.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from im2sp.batch import CaptionerConfig
from im2sp.collections.making import make_shard
from im2sp.collections.products import Captions, Product, Units
from im2sp.collections.shards import ShardResult
from im2sp.collections.slices import Slice, from_json, to_json
from im2sp.errors import Im2SpError, debugging, reason, unexpected

_STARTS = 3  # Ray allows itself half a minute, which it exceeds on a machine that is very busy
OBJECT_STORE = 128  # MB; what goes through it are descriptions of shards, of some ten kilobytes each


@dataclass(frozen=True)
class Work:
    """What a worker makes, and where. `voice` without decoding makes image units where `captions` is False."""

    folder: Path  # absolute, on a disk that all workers see
    voice: CaptionerConfig
    captions: bool

    def product(self) -> Product:
        """With a model of its own. Raises BundleError."""
        return Captions(self.voice) if self.captions else Units(self.voice.model, self.voice.threads)


@dataclass(frozen=True)
class Workers:
    """How many processes there are, and what each may take."""

    count: int = 1
    object_store: int = OBJECT_STORE  # MB of memory that Ray shares between processes on this machine


def check_ray() -> None:
    """Raise Im2SpError, with what to install, where Ray is missing."""
    _ray()


def make_on_ray(
    pending: Sequence[tuple[int, Slice]], work: Work, workers: Workers
) -> Generator[ShardResult, None, None]:
    """Make shards, by number; each result comes when the shard is sealed.

    A cluster is joined where RAY_ADDRESS names one or this process is in one already; otherwise one is started on this
    machine, which only this machine reaches, and which ends with the iteration. Until then what is printed on stdout
    is taken for Ray's and dropped (unless IM2SP_DEBUG is set).

    Raises what `make_shard` raises, Im2SpError where Ray is missing or fails.
    """
    ray = _ray()
    with nullcontext() if debugging() else redirect_stdout(io.StringIO()), cluster(workers, work.voice.threads):
        try:
            yield from _results(ray, pending, work, workers)
        except ray.exceptions.RayError as error:
            raise Im2SpError(f"Ray gave up ({reason(error)}); run the same command again to go on") from error


def _results(
    ray: Any, pending: Sequence[tuple[int, Slice]], work: Work, workers: Workers
) -> Generator[ShardResult, None, None]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = debugging()
    if not debugging():
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"number": number, "slice": to_json(piece)} for number, piece in pending]
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Replica,
        fn_constructor_args=(work,),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers.count, max_tasks_in_flight_per_actor=1),
        num_cpus=max(1, work.voice.threads),
    )
    for batch in made.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
        for number, photos, failed, refusal in zip(
            *(batch[name].tolist() for name in ("number", "photos", "failed", "refusal")), strict=True
        ):
            if refusal:
                raise Im2SpError(refusal)
            yield ShardResult(number, photos, failed)


class _Replica:
    """One worker: a model, opened when the first shard comes."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._product: Product | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One shard. What ends the run comes back as a sentence, since Ray would try exceptions again."""
        (number,), (described,) = batch["number"].tolist(), batch["slice"].tolist()
        result, refusal = ShardResult(number, 0, 0), ""
        try:
            self._product = self._product or self._work.product()
            result = make_shard(self._work.folder, number, from_json(described), self._product)
        except Im2SpError as error:
            refusal = str(error)
        except Exception as error:
            refusal = unexpected(error)
        return {
            "number": [number],
            "photos": [result.photos],
            "failed": [result.failed],
            "refusal": [refusal],
        }


@contextmanager
def cluster(workers: Workers, threads: int = 1) -> Iterator[None]:
    """Be in a cluster within the block: the one that this process is in, the one of RAY_ADDRESS, or one of our own.

    One of our own has room for so many workers of so many threads. Raises Im2SpError where Ray is missing or does not
    start.
    """
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    with _unwound_by_sigterm() as arm, ExitStack() as ending:
        with nullcontext() if debugging() else _silenced():
            _start(ray, workers, threads, ending)
        arm()
        yield


def _start(ray: Any, workers: Workers, threads: int, ending: ExitStack) -> None:
    options: dict[str, Any] = {
        "logging_level": logging.INFO if debugging() else logging.ERROR,
        "log_to_driver": debugging(),
    }
    own = not os.environ.get("RAY_ADDRESS")
    for attempt in range(1, _STARTS + 1):
        if own:
            made = tempfile.TemporaryDirectory(
                prefix="im2sp-", ignore_cleanup_errors=True
            )  # names of sockets are short
            options |= {
                "num_cpus": workers.count * max(1, threads),
                "object_store_memory": workers.object_store * 2**20,
                "include_dashboard": False,
                "_temp_dir": ending.enter_context(made),
            }
        ending.callback(ray.shutdown)  # before the folder goes
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray raises that class itself, too
            if own:
                _end_processes_of(options["_temp_dir"])
            if attempt == _STARTS or not own:
                raise Im2SpError(f"Ray cannot be started ({reason(error)})") from error


def _end_processes_of(folder: str) -> None:
    """End what a start of Ray that failed has begun; or it would take the machine from the next one."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if any(folder in word for word in process.cmdline()):
                process.kill()


@contextmanager
def _unwound_by_sigterm() -> Iterator[Callable[[], None]]:
    """Give what makes SIGTERM end the block in order: Ray's own handler prints addresses and leaves its folder."""
    here = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    before = signal.getsignal(signal.SIGTERM)

    def arm() -> None:
        if here:
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))

    try:
        yield arm
    finally:
        if here:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _silenced() -> Iterator[None]:
    """Nothing on stderr, not even from native code: Ray tells there that it was asked to be quiet."""
    sys.stderr.flush()
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def _ray() -> Any:
    """Ray, told to keep to itself: no reports of use, and on one machine nothing that others can reach."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not debugging():
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # listens on the loopback address
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or it would keep one in the home folder
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise Im2SpError(f"collections on Ray need {error.name}: pip install 'im2sp[ray]'") from error
    return ray
