"""`im2sp-lab score`: a bundle on a split of any corpus -> report.json."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from im2sp.train.logs import log_to_stderr


def score(
    bundle: Annotated[Path, typer.Argument(help="folder of the bundle")],
    corpus: Annotated[Path, typer.Argument(help="folder of the corpus, or a Karpathy file")],
    layout: Annotated[str, typer.Option(help="karpathy, coco-captions-2014, spoken-coco, flickr8k-audio ...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for speech, transcripts and report.json")],
    photos: Annotated[Path | None, typer.Option(help="folder of the photos, where it is another one")] = None,
    splits: Annotated[Path | None, typer.Option(help="Karpathy file whose splits replace the official ones")] = None,
    split: Annotated[str, typer.Option(help="train, dev or test")] = "test",
    recogniser: Annotated[
        str, typer.Option(help="tiny, base, a folder, or a model in the hub's local cache")
    ] = "facebook/wav2vec2-large-960h-lv60-self",
    limit: Annotated[int, typer.Option(min=0, help="photos, drawn by chance; 0 for all")] = 0,
    speech: Annotated[Path | None, typer.Option(help="speech shards of the split, for word error rates")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes that caption")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each")] = 1,
) -> None:
    """Score a bundle by the paper's protocol."""
    from im2sp.train.data.corpora.layouts import open_corpus
    from im2sp.train.evaluate.photo_sets import corpus_photos
    from im2sp.train.evaluate.report import REPORT, TABLE_HEADER, EvaluationOptions, evaluate, table_row

    log_to_stderr()
    opened = open_corpus(layout, corpus, lambda problem: logging.warning(problem.message), photos, splits)
    options = EvaluationOptions(
        split=split,
        photos=limit or None,
        clips=EvaluationOptions.clips if speech else 0,
        recogniser=recogniser,
        workers=workers,
        threads=threads,
    )
    report = evaluate(bundle, corpus_photos(opened, split), speech, out, options)
    print(TABLE_HEADER, table_row(report), sep="\n")
    spice, why = report["captions"]["spice"], report["captions"]["spice_left_out"]
    print(f"SPICE: {why if spice is None else f'{spice:.1f}'}")
    print(f"{out / REPORT}")
