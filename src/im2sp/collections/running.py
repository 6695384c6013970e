"""A collection of photos in, shards of captions or of image units out: made on Ray, gone on with after a stop."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path

from im2sp.batch import CaptionerConfig
from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.checksums import format_checksums
from im2sp.collections.cluster import Work, Workers, check_ray, make_on_ray
from im2sp.collections.ledger import Run, open_ledger
from im2sp.collections.planning import Plan
from im2sp.collections.shards import CAPTIONS, UNITS, ShardResult


def make_captions(
    plan: Plan, folder: Path, voice: CaptionerConfig, workers: Workers | None = None
) -> Generator[ShardResult, None, None]:
    """Speak about each photo of a plan: rows in `folder`/captions-000000.parquet, wavs in `folder`/wavs-000000.tar.

    Each result comes when its shard is on the disk; shards that were made before come first. What is said about a photo
    depends on nothing but the photo, the bundle and `voice.decoding`. `voice.model` is a folder; on a cluster, all
    machines see it, `folder` and the photos.

    Raises BundleError for a bundle that cannot be used, Im2SpError for options that it cannot follow and where Ray is
    missing or fails, OutputError when the folder cannot be written, is in use, or was begun with something else.
    """
    captioner = Captioner.from_pretrained(voice.model)
    options = asdict(voice.options(captioner))
    return _made(CAPTIONS, plan, folder, voice, options, captioner.bundle, workers or Workers())


def make_units(
    plan: Plan, folder: Path, voice: CaptionerConfig, workers: Workers | None = None
) -> Generator[ShardResult, None, None]:
    """Store each photo of a plan as image units: `folder`/units-000000.parquet, tables that `im2sp caption` reads.

    Photos that cannot be read are in `folder`/errors-000000.parquet. Apart from that, as `make_captions`; also raises
    BundleError for a bundle without image units.
    """
    captioner = Captioner.from_pretrained(voice.model)
    _ = captioner.image_tokenizer  # before anything is begun
    return _made(UNITS, plan, folder, voice, {}, captioner.bundle, workers or Workers())


def _made(
    makes: str,
    plan: Plan,
    folder: Path,
    voice: CaptionerConfig,
    options: dict[str, int | float],
    bundle: Bundle,
    workers: Workers,
) -> Generator[ShardResult, None, None]:
    check_ray()
    checksum = hashlib.sha256(format_checksums(bundle.checksums).encode("utf-8")).hexdigest()
    run = Run(makes, checksum, options, plan.digest, len(plan.slices))
    with open_ledger(folder, run) as ledger:
        done = ledger.done()
        for number in sorted(done):
            yield replace(done[number], skipped=True)
        pending = [(number, piece) for number, piece in enumerate(plan.slices) if number not in done]
        if pending:
            work = Work(Path(os.path.abspath(folder)), _shared(voice, workers), makes == CAPTIONS)
            yield from make_on_ray(pending, work, workers)
        ledger.close_off()


def _shared(voice: CaptionerConfig, workers: Workers) -> CaptionerConfig:
    """With threads for each worker: one on a cluster, which shares out its cores itself."""
    if os.environ.get("RAY_ADDRESS"):
        return replace(voice, threads=voice.threads or 1)
    return voice.for_workers(workers.count)
