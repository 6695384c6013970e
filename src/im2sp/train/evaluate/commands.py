"""`im2sp evaluate`: a bundle, photos and captions by people -> report.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_PATH = click.Path(path_type=Path)


@click.command(short_help="Measure the quality of a bundle.")
@click.argument("bundle")
@click.argument("captions", type=_PATH)
@click.option("--photos", type=_PATH, help="Folder of the photos, where it is not that of the captions.")
@click.option("--split", help="train, dev or test, or a text file with the name of a photo a line.")
@click.option("--limit", type=click.IntRange(0), default=0, help="Photos, drawn at random; 0 for all.")
@click.option("--objects", type=_PATH, help="Folder with objects.json and object_synonyms.txt, for object scores.")
@click.option("--speech", type=_PATH, help="Folder of spoken captions of the split, for word error rates.")
@click.option("--clips", type=click.IntRange(1), default=300, show_default=True, help="Spoken captions to take.")
@click.option("--runs", type=_PATH, help="Output of the captioner recipe, to score the words of tokens, too.")
@click.option(
    "--recogniser",
    help="tiny or base (Whisper, the default), a folder, or a model in the hub's local cache.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Score as the paper does: spellings stay as they are, clips under 1 s are padded, and wav2vec2 large "
    "(lv60-self) listens where the hub's local cache has it.",
)
@click.option("--beam", type=click.IntRange(1, 64), help="Beam width; 1 is greedy. The bundle's by default.")
@click.option("--seed", type=int, default=0, help="Of draws and intervals.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option("--out", "-o", type=_PATH, required=True, help="Folder for transcripts and report.json.")
def evaluate(
    bundle: str,
    captions: Path,
    photos: Path | None,
    split: str | None,
    limit: int,
    objects: Path | None,
    speech: Path | None,
    clips: int,
    runs: Path | None,
    seed: int,
    out: Path,
    **options: Any,
) -> None:
    """Let BUNDLE speak about photos, transcribe the speech, and score it against CAPTIONS by people.

    CAPTIONS is the folder of Flickr8k or COCO, a Karpathy file, a COCO file of captions, or a JSON object
    {file name: [caption, ...]}. A text file of photos and phrases, with a tab between them, names the main thing of
    each photo instead. Run again, it goes on where it stopped.
    """
    from im2sp.bundle import find_bundle
    from im2sp.train.data.unit_words import words_of_tokens
    from im2sp.train.evaluate.chair import ObjectLabels
    from im2sp.train.evaluate.evaluation import REPORT, EvaluationOptions, summary
    from im2sp.train.evaluate.evaluation import evaluate as measure
    from im2sp.train.evaluate.photo_sets import read_photo_set
    from im2sp.train.evaluate.resynthesis import read_recordings
    from im2sp.train.launch import log_to_stderr

    log_to_stderr()
    of_split = None if split and Path(split).is_file() else split or "dev"
    data = read_photo_set(captions, photos, split).sample(limit, seed)
    report = measure(
        find_bundle(bundle),
        data,
        out,
        EvaluationOptions(seed=seed, **options),
        ObjectLabels.read(objects) if objects else None,
        read_recordings(speech, of_split, clips) if speech else (),
        words_of_tokens(runs) if runs else None,
    )
    click.echo(f"{summary(report)}\n{out / REPORT}")
