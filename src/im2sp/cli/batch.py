"""Batches of the command line: photos in; files, counts and an exit code out."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from im2sp import batch
from im2sp.batch import CaptionerConfig, CaptionWorker, Result
from im2sp.bundle import Bundle, find_bundle
from im2sp.cli.console import counts_line, finish, progress, show_problems, show_result
from im2sp.cli.group import INTERRUPTED, fail
from im2sp.cli.streams import is_standard_stream, standard_input, write_waveform
from im2sp.errors import PlaybackError
from im2sp.image.finding import UNKNOWN, Photos, Survey, kind_in_folder
from im2sp.image.formats import can_read
from im2sp.image.unit_table import SUFFIX, UnitTables, is_table
from im2sp.manifest import open_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from im2sp.cli.options import CaptionOptions
    from im2sp.files import NamedBytes
    from im2sp.image.listing import Collection
    from im2sp.manifest import Manifest
    from im2sp.playback import AudioPlayer


def caption_photo(source: Path, options: CaptionOptions, raw: bool) -> None:
    """Caption one photo, or that on standard input, to one wav or standard output, aloud, or both.

    With neither, aloud or, where nothing can be played, into a wav in the working directory. `raw`: write 16-bit
    samples without a header. Ends in exit code 1 when it fails.
    """
    from im2sp.image.loading import MAX_FILE_BYTES

    out, player, note = options.out, None, None
    image: Path | NamedBytes = source
    name = str(source)
    if is_standard_stream(source):
        image, name = standard_input(MAX_FILE_BYTES), "standard input"
    with ExitStack() as opened:
        if options.play or out is None:
            from im2sp.playback import AudioPlayer

            try:
                player = opened.enter_context(AudioPlayer())
            except PlaybackError as error:
                if options.play:
                    raise
                out = _free_name(Path(f"{source.stem}.wav"))
                note = f"written to {out}, as {error}"
        worker = CaptionWorker(replace(options, play=player is not None).config())
        caption = worker.try_caption(image, name, player)
        if isinstance(caption, str):
            fail(caption)
        if out is not None:
            write_waveform(out, caption.waveform, raw=raw)
    if note and not options.quiet:
        click.echo(note, err=True)
    result = Result(source, worker.row(caption, source, out.name if out else ""))
    show_result(result, out.parent if out else None, options, err=is_standard_stream(out))


def _free_name(wav: Path) -> Path:
    """Return the name itself or, where it is taken, with the first number that is free."""
    names = (wav.with_stem(f"{wav.stem}-{number}") for number in count(2))
    return next(name for name in chain([wav], names) if not os.path.lexists(name))


def caption_photos(sources: Sequence[Path], options: CaptionOptions, workers: int, force: bool) -> None:
    """Caption photos into a folder, aloud, or both. Ends in exit code 1 when a photo failed."""
    config, out, play = options.config(), options.out, options.play
    photos = _photos_of(sources, config.model)
    survey = photos.survey()
    show_problems(survey)
    # Before the folder is made: a misspelt name must leave no empty one behind. And all workers read the same files.
    config = replace(config, model=str(find_bundle(config.model)))
    single = survey.count == 1 and not sources[0].is_dir()
    resumable = out is not None and not play
    with (
        _outputs(out, play) as (manifest, player),
        progress(survey.count, "spoken", resumable=resumable, quiet=options.quiet) as counts,
    ):
        results = batch.caption_photos(photos, config, manifest, player, workers=workers, force=force or play)
        try:
            with closing(results):
                for result in results:
                    counts.add(result)
                    if single or options.as_json:
                        show_result(result, out, options)
        except KeyboardInterrupt:
            if manifest is not None and resumable:
                counts.done = manifest.added  # with those that were finished while stopping
            raise
    if (not single or counts.skipped) and not (options.as_json or options.quiet):
        click.echo(f"{out}: {counts}" if out else str(counts))
    if counts.failed and not (single and counts.failed == 1):
        click.echo(f"{counts.failed} of {survey.count} photos could not be spoken", err=True)
    finish(survey, failed=counts.failed > 0)


def caption_new_photos(folder: Path, options: CaptionOptions) -> None:
    """Caption photos that appear in a folder until Ctrl-C."""
    from im2sp.watch import FolderWatcher

    config, out = options.config(), options.out
    config = replace(config, model=str(find_bundle(config.model)))
    photos = FolderWatcher(folder)
    with _outputs(out, options.play) as (manifest, player):
        if not (options.as_json or options.quiet):
            click.echo(f"{folder}: waiting for new photos until Ctrl-C")
        left_out: Counter[str] = Counter()
        try:
            for result in batch.caption_photos(photos, config, manifest, player, force=True):
                show_result(result, out, options)
                if result.error is not None:
                    click.echo(result.error, err=True)
                    kind = kind_in_folder(str(result.photo))
                    left_out["damaged" if kind is None or kind == UNKNOWN or can_read(kind) else kind] += 1
        except KeyboardInterrupt:  # the way to end it
            finish(Survey(1, (), left_out), failed=False)


def tokenize_photos(sources: Sequence[Path], out: Path, config: CaptionerConfig) -> None:
    """Write the image units of photos to one table. Ends in exit code 1 when a photo failed."""
    from im2sp.captioner import Captioner
    from im2sp.tokenizing import tokenize_photos

    photos, _ = _collection(sources, out, config)
    if photos.tables:
        raise click.BadParameter("tables of photos are read with --ray only; give it", param_hint="PHOTO")
    captioner = Captioner.from_pretrained(config.model, threads=config.threads)
    with (
        progress(photos.survey.count, "tokenized") as counts,
        closing(tokenize_photos(photos, out, captioner)) as results,
    ):
        for result in results:
            counts.add(result)
    if counts.done or counts.skipped:
        click.echo(f"{out}: {counts}, {captioner.image_tokenizer.bits:,} bits each")
    finish(photos.survey, failed=counts.failed > 0)


def caption_on_ray(sources: Sequence[Path], out: Path, config: CaptionerConfig, workers: int, force: bool) -> None:
    """Caption photos on Ray Data. Ends in exit code 1 when a photo failed."""
    from im2sp.ray import caption_collection

    photos, bundle = _collection(sources, None, config)
    with _resumable():
        made = caption_collection(photos, out, _for_ray(config, bundle), workers, force=force)
    click.echo(f"{out}: {counts_line('spoken', made.done, made.skipped, len(made.errors))}")
    if made.errors:
        click.echo(f"{len(made.errors)} failed: the column error of {out}/captions-*.parquet says why", err=True)
    finish(photos.survey, failed=bool(made.errors))


def tokenize_on_ray(sources: Sequence[Path], out: Path, config: CaptionerConfig, workers: int) -> None:
    """Write the image units of photos to one table, on Ray Data. Ends in exit code 1 when a photo failed."""
    from im2sp.ray import tokenize_collection

    photos, bundle = _collection(sources, out, config)
    with _resumable():
        made = tokenize_collection(photos, out, _for_ray(config, bundle), workers)
    for error in made.errors:
        click.echo(error, err=True)
    if made.done or made.skipped:
        counts = counts_line("tokenized", made.done, made.skipped, len(made.errors))
        click.echo(f"{out}: {counts}, {bundle.image_tokenizer.bits:,} bits each")
    finish(photos.survey, failed=bool(made.errors))


def _collection(sources: Sequence[Path], table: Path | None, config: CaptionerConfig) -> tuple[Collection, Bundle]:
    """List photos for captions, or for a table of image units, and load the bundle; print what is wrong with them."""
    from im2sp.image.listing import list_photos

    if table is not None and table.suffix.lower() != SUFFIX:
        raise click.BadParameter(f"the name of a table ends in {SUFFIX}", param_hint="--out")
    bundle = Bundle.load(find_bundle(config.model))
    photos = list_photos(sources, None if table else bundle.config.image_units)
    show_problems(photos.survey)
    return photos, bundle


def _for_ray(config: CaptionerConfig, bundle: Bundle) -> CaptionerConfig:
    return replace(config, model=str(bundle.folder.absolute()))  # one folder for all workers


@contextmanager
def _resumable() -> Iterator[None]:
    """Say how to go on after Ctrl-C. Ray Data shows the progress itself."""
    try:
        yield
    except KeyboardInterrupt:
        fail("stopped; run the same command again to go on", INTERRUPTED)


def _photos_of(sources: Sequence[Path], model: str) -> Photos | UnitTables:
    tables = [source for source in sources if is_table(source)]
    if not tables:
        return Photos(sources)
    if len(tables) < len(sources):
        raise click.BadParameter("give photos or tables of image units, not both at once", param_hint="PHOTO")
    return UnitTables(tables, Bundle.load(find_bundle(model)).image_tokenizer)


@contextmanager
def _outputs(out: Path | None, play: bool) -> Iterator[tuple[Manifest | None, AudioPlayer | None]]:
    with ExitStack() as opened:
        player = None
        if play:
            from im2sp.playback import AudioPlayer

            player = opened.enter_context(AudioPlayer())
        yield opened.enter_context(open_manifest(out)) if out else None, player
