"""`im2sp-lab ingest`: a corpus in its official layout -> speech shards, or unit tables where its units are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from im2sp.errors import Im2SpError
from im2sp.train.logs import log_to_stderr


def ingest(
    corpus: Annotated[Path, typer.Argument(help="folder of the corpus")],
    layout: Annotated[str, typer.Option(help="flickr8k-audio or spoken-coco")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the shards and problems.jsonl")],
    photos: Annotated[
        Path | None, typer.Option(help="folder of the photos (Flickr8k with its captions), where it is another one")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="dataset_coco.json or dataset_flickr8k.json, for Karpathy's splits")
    ] = None,
    restval_as_train: Annotated[
        bool, typer.Option("--restval-as-train", help="Karpathy's restval is for training too")
    ] = False,
    split: Annotated[list[str] | None, typer.Option(help="take this split only (train, dev, test); repeatable")] = None,
    shard_size: Annotated[int, typer.Option(help="captions a shard")] = 250,
    longest: Annotated[float, typer.Option(help="seconds; longer recordings are left out")] = 60.0,
    unit_files: Annotated[
        Path | None, typer.Option(help="folder of published .unit files: unit tables of these, not of the recordings")
    ] = None,
    units: Annotated[int, typer.Option(help="speech units that there are in them")] = 200,
) -> None:
    """Ingest a corpus."""
    from im2sp.train.data.corpora.items import SPLITS, Problem
    from im2sp.train.data.corpora.layouts import SPOKEN, open_corpus
    from im2sp.train.data.speech_ingest import PROBLEMS, IngestOptions
    from im2sp.train.data.speech_ingest import ingest as run
    from im2sp.train.data.unit_files import UnitFiles

    log_to_stderr()
    if layout not in SPOKEN:
        raise Im2SpError(f"--layout {layout}: recordings are in {' and '.join(SPOKEN)}")
    if unknown := sorted(set(split or ()) - set(SPLITS.values())):
        raise Im2SpError(f"--split {unknown[0]}: known are {', '.join(sorted(set(SPLITS.values())))}")
    split_problems: list[Problem] = []
    opened = open_corpus(layout, corpus, split_problems.append, photos, splits, restval_as_train)
    options = IngestOptions(shard_size=shard_size, longest=longest, splits=tuple(split or ()))
    description, source = {"layout": layout}, None
    if unit_files is not None:
        source = UnitFiles(unit_files, units, options)
        description |= {"units": str(units)}
    result = run(opened, out, options, description, split_problems, source)
    print(f"{out}: {result.recordings} recordings, {result.seconds / 3600:.2f} hours, in {result.shards} shards")
    for verb, counts in (("left out", result.left_out), ("noted", result.noted)):
        if counts:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
            print(f"{verb}: {kinds} ({out / PROBLEMS})")
