"""A collection of photos on Ray, with one worker and with two: speed, memory, sizes, and what more photos would take.

    python benchmarks/many_photos.py [--photos 2000] [--workers 1 2] [--model BUNDLE] [--units] FOLDER...

Takes photos from the folders in turn, makes captions of them (with --units image units, for bundles that have them)
once for each number of workers, checks that all runs wrote the same bytes, and prints two tables: what was measured,
and what a million and a thousand million photos take at the rate of the last run by the clock: run it alone. Photos a
second are counted from the start of the workers to the last shard; the start of Ray comes on top. Time on the processor
is that of the workers alone. Needs im2sp[ray] and Linux.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path

from im2sp.batch import CaptionerConfig
from im2sp.bundle import find_bundle
from im2sp.collections.cluster import Workers, cluster
from im2sp.collections.planning import Plan, Reading, plan_shards
from im2sp.collections.running import make_captions, make_units
from im2sp.image.finding import Photos

WORKER = b"ray::Map"  # how Ray Data names its workers
TICKS = os.sysconf("SC_CLK_TCK")
PRICE = 0.04  # dollars for an hour of one core, about what large clouds ask for on demand
STORE_PRICE = 0.02  # dollars for a GB and month of object storage
HUGE = (10**6, 10**9)
COLUMNS = (
    "workers",
    "photos",
    "failed",
    "time",
    "photos/s",
    "CPU a photo",
    "Ray starts",
    "first shard",
    "memory of a worker",
    "of Ray",
    "load before",
)


@dataclass(frozen=True)
class Measured:
    """One run."""

    workers: int
    photos: int
    failed: int
    started: float  # s until Ray was there
    first: float  # s from there to the first shard
    seconds: float  # s from there to the last
    cpu: float  # s of the workers
    worker_memory: float  # MB, the largest of a worker
    other_memory: float  # MB, of all other processes that Ray started
    load: float  # of the machine before the run: processes that want to compute

    def __str__(self) -> str:
        return (
            f"| {self.workers} | {self.photos:,} | {self.failed} | {self.seconds:.0f} s "
            f"| {self.photos / self.seconds:.2f} | {1000 * self.cpu / self.photos:.0f} ms | {self.started:.0f} s "
            f"| {self.first:.0f} s | {self.worker_memory:.0f} MB | {self.other_memory:.0f} MB | {self.load:.1f} |"
        )


class Watch:
    """Looks at the processes below this one, twice a second."""

    def __init__(self) -> None:
        self.cpu: dict[int, float] = {}  # s of each worker, by process
        self.memory: dict[str, float] = defaultdict(float)  # MB at most
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.5):
            others = 0.0
            for process in below(os.getpid()):
                try:
                    folder = Path("/proc") / str(process)
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    memory = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
                    name = (folder / "cmdline").read_bytes()
                except OSError:  # it has just ended
                    continue
                if name.startswith(WORKER):
                    self.cpu[process] = (int(fields[11]) + int(fields[12])) / TICKS
                    self.memory["worker"] = max(self.memory["worker"], memory)
                else:
                    others += memory
            self.memory["others"] = max(self.memory["others"], others)


def below(process: int) -> list[int]:
    """All processes that descend from one."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children[parent].append(int(folder.name))
    found, next_ones = [], children[process]
    while next_ones:
        found += next_ones
        next_ones = [child for each in next_ones for child in children[each]]
    return found


def chosen(folders: Sequence[Path], count: int) -> list[Path]:
    """Photos of the folders in turn."""
    in_turn = chain.from_iterable(zip_longest(*(Photos([folder]) for folder in folders)))
    found = list(islice((photo for photo in in_turn if photo is not None), count))
    if len(found) < count:
        sys.exit(f"the folders hold {len(found)} photos; give more folders, or a smaller --photos")
    return found


def measure(plan: Plan, out: Path, voice: CaptionerConfig, workers: int, units: bool) -> Measured:
    """One run into a new folder."""
    make = make_units if units else make_captions
    load, begin = os.getloadavg()[0], time.perf_counter()
    with cluster(Workers(workers), voice.threads), Watch() as watch:
        started = time.perf_counter()
        first, photos, failed = 0.0, 0, 0
        for result in make(plan, out, voice, Workers(workers)):
            first = first or time.perf_counter() - started
            photos += result.photos
            failed += result.failed
        seconds = time.perf_counter() - started
    memory = watch.memory
    cpu = sum(watch.cpu.values())
    return Measured(
        workers, photos, failed, started - begin, first, seconds, cpu, memory["worker"], memory["others"], load
    )


def size_of(folder: Path, pattern: str) -> int:
    """Bytes in the files of that name."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def show_plan(run: Measured, read: float, table: float, wavs: float) -> None:
    """What many photos take, from bytes of a photo and of what is made of it."""
    core = run.workers * run.seconds / run.photos
    print("\n| photos | " + " | ".join(f"{count:.0e}".replace("e+0", "0^") for count in HUGE) + " |")
    print("|---|" + "---|" * len(HUGE))
    hours = [count * core / 3600 for count in HUGE]
    rows: dict[str, list[str]] = {
        "core hours": [f"{each:,.0f}" for each in hours],
        f"at {PRICE:g} dollars an hour": [f"{each * PRICE:,.0f} dollars" for each in hours],
        "cores to be done in a day": [f"{each / 24:,.1f}" for each in hours],
        "photos read": [f"{count * read / 1e12:,.2f} TB" for count in HUGE],
        "tables written": [f"{count * table / 1e9:,.1f} GB" for count in HUGE],
        "wavs written": [f"{count * wavs / 1e12:,.3f} TB" for count in HUGE],
        f"storing both for a month at {STORE_PRICE:g} dollars a GB": [
            f"{count * (table + wavs) / 1e9 * STORE_PRICE:,.0f} dollars" for count in HUGE
        ],
        "network to be done in a day": [
            f"{count * (read + table + wavs) * 8 / 86400 / 1e9:,.2f} Gbit/s" for count in HUGE
        ],
    }
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(values) + " |")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--photos", type=int, default=2_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shard", type=int, default=100)
    parser.add_argument("--model", default="default")
    parser.add_argument("--units", action="store_true")
    parser.add_argument("--kilobytes", type=float, help="of a photo in the plan; unless given, of those here")
    given = parser.parse_args()
    photos = chosen(given.folders, given.photos)
    plan = plan_shards(photos, Reading(shard=given.shard))
    voice = CaptionerConfig(str(find_bundle(given.model).absolute()), threads=1)
    runs, sums = [], set()
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for workers in given.workers:
            out = Path(folder) / f"workers-{workers}"
            runs.append(measure(plan, out, voice, workers, given.units))
            sums.add((out / "SHA256SUMS").read_text())
            print(runs[-1], flush=True)
        tables, wavs = size_of(out, "*.parquet") / len(photos), size_of(out, "*.tar") / len(photos)
    read = sum(photo.stat().st_size for photo in photos) / len(photos)
    if len(sums) > 1:
        sys.exit("the runs did not write the same bytes")
    if len(runs) > 1:
        ratio = runs[0].seconds / runs[-1].seconds
        print(
            f"\n{runs[-1].workers} workers are {ratio:.2f} times as fast as {runs[0].workers}; all wrote the same bytes"
        )
    print(f"A photo has {read / 1e3:.1f} kB, its row {tables:.0f} bytes, its wav {wavs / 1e3:.1f} kB")
    show_plan(runs[-1], given.kilobytes * 1e3 if given.kilobytes else read, tables, wavs)


if __name__ == "__main__":
    main()
