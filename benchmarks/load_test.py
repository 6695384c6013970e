"""Many clients at once against `im2sp serve`: latency, throughput, errors other than 429, memory of the server.

    python benchmarks/load_test.py [--clients 50] [--seconds 20] [--stream] [--threads 1] [--hostile FOLDER] [PHOTO...]

Starts a service of its own on a free port and ends it afterwards. Each client sends one photo after the other and,
told 429, waits for Retry-After and up to half as long again, so that not all come back at once.
Every tenth request is a bad one (not a picture, or cut short), which must be refused with 400 or 422. It ends after
`--seconds`, or `--requests` answered photos. Exit code 1 when an answer was neither speech nor 429, or when memory
grew by more than `--growth` between the first quarter of the run and its end. Needs the extra serve, and httpx.

With `--hostile`, the load runs twice on the same service: alone, and with the next picture of that folder every
`--every` seconds. The exit code is also 1 when the 95th percentile of the others is then more than 1.5 times as long or
when the memory of the service itself ends more than 60 MB above where the first load left it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from processes import children, memory, sentences, service

from im2sp.installing import require_extra

with sentences(), require_extra("dev"):
    import httpx

EXAMPLES = Path(__file__).parents[1] / "examples"
BAD = (b"not a picture", b"\xff\xd8\xff\xe0 cut short")


@dataclass
class Tally:
    """Answers that the clients got."""

    seconds: list[float] = field(default_factory=list)  # of answered photos, from request to last byte
    first: list[float] = field(default_factory=list)  # until the first byte of speech
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    hostile: Counter[str] = field(default_factory=Counter)  # answers to hostile pictures
    hostile_seconds: float = 0.0  # until the last of them was answered
    children: float = 0.0  # megabytes, at most


async def client(
    number: int, http: httpx.AsyncClient, path: str, photos: list[bytes], tally: Tally, until: float, requests: int
) -> None:
    """One client, until the time is over or enough photos have been answered."""
    chance = random.Random(number)
    while time.perf_counter() < until and len(tally.seconds) < requests:
        is_bad = chance.random() < 0.1
        photo = chance.choice(BAD) if is_bad else chance.choice(photos)
        started = time.perf_counter()
        try:
            async with http.stream("POST", path, content=photo) as response:
                pieces = [(time.perf_counter(), len(piece)) async for piece in response.aiter_raw()]
        except httpx.HTTPError as error:
            tally.wrong.append(f"{type(error).__name__}: {error}")
            continue
        status = response.status_code
        tally.statuses[str(status)] += 1
        if status == 429:
            await asyncio.sleep(float(response.headers["retry-after"]) * chance.uniform(1, 1.5))
        elif is_bad:
            if status not in (400, 422):
                tally.wrong.append(f"a bad photo was answered {status}")
        elif status != 200 or sum(size for _, size in pieces) <= 44:
            tally.wrong.append(f"a photo was answered {status}")
        else:
            tally.seconds.append(time.perf_counter() - started)
            tally.first.append(next(moment for moment, size in pieces if size) - started)


async def send_hostile(http: httpx.AsyncClient, options: argparse.Namespace, tally: Tally, until: float) -> None:
    """Send the next hostile picture every few seconds, whether the last one has been answered or not."""

    async def send(path: Path) -> None:
        started = time.perf_counter()
        try:
            while (status := str((await http.post("/v1/captions", content=path.read_bytes())).status_code)) == "429":
                await asyncio.sleep(0.2)  # more impatient than the others, so that it gets in
        except httpx.HTTPError as error:
            status = type(error).__name__
        tally.hostile[status] += 1
        tally.hostile_seconds = max(tally.hostile_seconds, time.perf_counter() - started)

    pictures = cycle(options.hostile)
    async with asyncio.TaskGroup() as sent:
        while time.perf_counter() + options.every < until:
            await asyncio.sleep(options.every)
            sent.create_task(send(next(pictures)))


def megabytes(*processes: int) -> float:
    """Return the resident memory of processes."""
    return sum(memory(process, "VmRSS") for process in processes) / 1e6


async def watch(process: int, samples: list[float], tally: Tally, until: float) -> None:
    """Note the memory twice a second."""
    while time.perf_counter() < until:
        samples.append(megabytes(process))
        tally.children = max(tally.children, megabytes(*children(process)))
        await asyncio.sleep(0.5)


async def load(
    options: argparse.Namespace, address: str, process: int, *, hostile: bool = False
) -> tuple[Tally, list[float], float]:
    """Run the clients -> (tally, memory over time, seconds)."""
    path = "/v1/captions/stream" if options.stream else "/v1/captions"
    tally, samples = Tally(), [megabytes(process)]
    started = time.perf_counter()
    until = started + options.seconds
    # Connections are dropped before the service drops them, after 5 s: a request could meet the end of its connection.
    limits = httpx.Limits(max_connections=options.clients + 8, keepalive_expiry=2)
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=120, limits=limits) as http:
        watching = asyncio.create_task(watch(process, samples, tally, until))
        attack = [send_hostile(http, options, tally, until)] if hostile else []
        clients = (
            client(number, http, path, options.photos, tally, until, options.requests)
            for number in range(options.clients)
        )
        await asyncio.gather(*clients, *attack)
        watching.cancel()
    samples.append(megabytes(process))
    return tally, samples, time.perf_counter() - started


def percentiles(values: list[float]) -> str:
    """p50, p95 and p99 in ms."""
    cuts = statistics.quantiles(values, n=100)
    return ", ".join(f"p{p} {1000 * cuts[p - 1]:.0f} ms" for p in (50, 95, 99))


def report(options: argparse.Namespace, tally: Tally, samples: list[float], seconds: float) -> bool:
    """Print what was found; whether it is good."""
    settled = max(samples[: max(1, len(samples) // 4)])
    growth = samples[-1] / settled - 1
    print(f"{options.clients} clients, {seconds:.1f} s, {'streamed' if options.stream else 'whole'} wav")
    print("answers:", ", ".join(f"{status}: {count}" for status, count in sorted(tally.statuses.items())))
    if len(tally.seconds) > 1:
        print(f"photos: {len(tally.seconds)}, {len(tally.seconds) / seconds:.1f} a second")
        print(f"to the last byte:  {percentiles(tally.seconds)}")
        print(f"to the first byte: {percentiles(tally.first)}")
    print(f"errors other than 429: {len(tally.wrong)}", *sorted(set(tally.wrong)), sep="\n  ")
    print(
        f"memory of the server: {samples[0]:.0f} MB at the start, at most {settled:.0f} MB in the first quarter, "
        f"at most {max(samples):.0f} MB in all, {samples[-1]:.0f} MB at the end"
    )
    if tally.hostile:
        answers = ", ".join(f"{status}: {count}" for status, count in sorted(tally.hostile.items()))
        print(f"hostile pictures: {answers}; the slowest took {tally.hostile_seconds:.1f} s")
    print(f"memory of the processes that decode: at most {tally.children:.0f} MB")
    return bool(tally.seconds) and not tally.wrong and growth <= options.growth


def compare(options: argparse.Namespace, address: str, process: int) -> bool:
    """Load the service alone and with hostile pictures, and print what they change; whether it is good."""
    alone, before, seconds = asyncio.run(load(options, address, process))
    good = report(options, alone, before, seconds)
    attacked, after, seconds = asyncio.run(load(options, address, process, hostile=True))
    good &= report(options, attacked, after, seconds)
    slower = statistics.quantiles(attacked.seconds, n=100)[94] / statistics.quantiles(alone.seconds, n=100)[94]
    time.sleep(5)
    growth = megabytes(process) - before[-1]
    print(f"with hostile pictures: p95 {slower:.2f} times as long, {growth:+.0f} MB at the end")
    return good and slower <= 1.5 and growth <= 60


def main() -> None:
    """Start a service, load it, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.jpg")))
    for name, value in (("clients", 50), ("requests", 10_000), ("threads", 1), ("queue", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, seconds in (("seconds", 20), ("every", 10)):
        parser.add_argument(f"--{name}", type=float, default=seconds)
    parser.add_argument("--growth", type=float, default=0.1)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--model", default="default")
    parser.add_argument("--hostile", type=Path)
    options = parser.parse_args()
    with sentences():
        good = run(options)
    sys.exit(0 if good else 1)


def run(options: argparse.Namespace) -> bool:
    """Start a service and load it; whether all is good."""
    options.photos = [path.read_bytes() for path in options.photos]
    options.hostile = sorted(options.hostile.iterdir()) if options.hostile else []
    limits = ("--queue", str(options.queue), "--max-per-client", str(options.queue))
    with service("--threads", str(options.threads), "--model", options.model, *limits) as (address, process):
        if options.hostile:
            return compare(options, address, process.pid)
        return report(options, *asyncio.run(load(options, address, process.pid)))


if __name__ == "__main__":
    main()
