"""The command line: parses, calls, prints. Whatever goes wrong is one sentence on stderr and exit code 1 (2: usage)."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from im2sp.cli.group import INTERRUPTED, TRAIN_COMMANDS, Group, fail
from im2sp.cli.options import (
    ANY_PATH,
    Collection,
    Wishes,
    beam_option,
    collection_options,
    json_option,
    model_option,
    out_option,
    photos_argument,
    speaking_options,
    threads_option,
)
from im2sp.errors import Im2SpError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from im2sp.batch import Outcome, Voice
    from im2sp.collections.planning import Plan
    from im2sp.collections.shards import ShardResult
    from im2sp.image.finding import Photos
    from im2sp.image.stored import StoredPhotos
    from im2sp.manifest import Journal
    from im2sp.playing import Loudspeaker

# Numpy, onnxruntime and the rest are imported inside the commands, so that `im2sp --help` answers at once. A photo
# waits for all that is imported here: click takes a tenth of the time of typer, which loads pydantic to read a command.


def main() -> None:
    """Entry point of the `im2sp` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be printable
            stream.reconfigure(errors="backslashreplace")
    # Numpy's BLAS would start threads that turn idle for a while, next to graphs that are being opened. Nothing here
    # multiplies large matrices outside onnxruntime, which has threads of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app(prog_name="im2sp")
    finally:
        gc.freeze()  # or the interpreter would look through all objects once more, only to end


def _show_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        import im2sp

        click.echo(f"im2sp {im2sp.__version__}")
        raise click.exceptions.Exit


@click.group(cls=Group, lazy=TRAIN_COMMANDS, no_args_is_help=True)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version and exit.",
)
def app() -> None:
    """A photo goes in, a spoken description comes out, with no text in between."""


@app.command(short_help="Speak about photos.")
@photos_argument()
@speaking_options
@collection_options
def caption(wishes: Wishes, photos: tuple[Path, ...], workers: int, collection: Collection) -> None:
    """Speak about photos: OUT/<name>.wav for each, and a line in OUT/captions.jsonl; with --play, aloud.

    PHOTO is a photo, a folder of them, or a table that im2sp tokenize wrote. Run again, it goes on where it stopped:
    photos that have their line and their wav are skipped. With --ray: tables OUT/captions-*.parquet, and the wavs in
    OUT/wavs-*.tar.
    """
    if wishes.play and workers > 1:
        raise click.BadParameter("only one can speak aloud at a time; give --play or --workers", param_hint="--workers")
    voice = _voice(wishes)
    if not collection.ray:
        _speak_all(photos, wishes.out, wishes.play, voice, workers)
        return
    if wishes.play or wishes.out is None:
        raise click.BadParameter("what Ray makes goes to a folder; give --out, not --play", param_hint="--ray")
    _collect(photos, wishes.out, voice, workers, collection, captions=True)


@app.command(short_help="Speak about each new photo in a folder.")
@click.argument("folder", type=ANY_PATH)
@speaking_options
def watch(wishes: Wishes, folder: Path) -> None:
    """Speak about each new photo in a folder as it appears, aloud or into OUT, until Ctrl-C.

    Photos may also appear in folders below FOLDER.
    """
    voice = _voice(wishes)
    from im2sp.batch import speak_in_turn
    from im2sp.bundle import find_bundle
    from im2sp.cli.console import result_line
    from im2sp.watching import Watch

    voice = replace(voice, model=str(find_bundle(voice.model)))  # a misspelt name must leave no empty folder behind
    photos = Watch(folder)
    with _destinations(wishes.out, wishes.play) as (journal, sink):
        click.echo(f"{folder}: waiting for new photos until Ctrl-C")
        try:
            for outcome in speak_in_turn(photos, voice, journal, sink):
                if outcome.record is not None:
                    click.echo(result_line(outcome.record, wishes.out))
                else:
                    click.echo(outcome.error, err=True)
        except KeyboardInterrupt:  # the way to end it
            raise click.exceptions.Exit from None


@app.command(short_help="Store photos as image units.")
@photos_argument()
@out_option("The table to write: a name that ends in .parquet; with --ray, a folder.")
@model_option
@threads_option
@collection_options
def tokenize(
    photos: tuple[Path, ...], out: Path, model: str, threads: int, workers: int, collection: Collection
) -> None:
    """Store photos as image units: one table, from which im2sp caption speaks as it does from the photos.

    PHOTO is a photo, or a folder to look through. The table appears when it is complete. With --ray: tables
    OUT/units-*.parquet. Run again after a stop, it goes on where it stopped.
    """
    if collection.ray:
        from im2sp.batch import Voice

        _collect(photos, out, Voice(model, threads), workers, collection, captions=False)
        return
    if workers > 1:
        raise click.BadParameter("several processes tokenize with --ray only; give both", param_hint="--workers")
    from im2sp.captioner import Captioner
    from im2sp.cli.console import tally
    from im2sp.image.finding import Photos
    from im2sp.image.stored import SUFFIX
    from im2sp.tokenizing import tokenize_photos

    if out.suffix.lower() != SUFFIX:
        raise click.BadParameter(f"the name of a table ends in {SUFFIX}", param_hint="--out")
    sources = Photos(photos)
    survey = sources.survey()
    for problem in survey.problems:
        click.echo(problem, err=True)
    if survey.count == 0:
        raise click.exceptions.Exit(1)
    captioner = Captioner.from_pretrained(model, threads=threads)
    with tally(survey.count, "tokenizing", "tokenized") as counts:
        try:
            with closing(tokenize_photos(sources, out, captioner)) as outcomes:
                for outcome in outcomes:
                    counts.add(outcome)
        except KeyboardInterrupt:
            fail(f"stopped: {counts}; run the same command again to go on", INTERRUPTED)
        except Im2SpError as error:
            fail(f"{error} ({counts})" if counts.done else str(error))
    if counts.done or counts.skipped:
        click.echo(f"{out}: {counts}, {captioner.image_tokenizer.bits:,} bits each")
    if counts.failed or survey.problems:
        raise click.exceptions.Exit(1)


@app.command(short_help="Show what image units hold of photos.")
@click.argument("tables", type=ANY_PATH, nargs=-1, required=True, metavar="TABLE...")
@out_option("Folder for the pictures.")
@model_option
@threads_option
def reconstruct(tables: tuple[Path, ...], out: Path, model: str, threads: int) -> None:
    """Show what image units still hold of the photos: OUT/<name>.reconstructed.png for each.

    TABLE is what im2sp tokenize wrote.
    """
    from im2sp.captioner import Captioner
    from im2sp.image.stored import StoredPhotos
    from im2sp.reconstructing import write_reconstructions

    captioner = Captioner.from_pretrained(model, threads=threads)
    photos = StoredPhotos(tables, captioner.image_tokenizer)
    survey = photos.survey()
    for path in write_reconstructions(photos, out, captioner):
        click.echo(str(path))
    for problem in survey.problems:
        click.echo(problem, err=True)
    if survey.problems:
        raise click.exceptions.Exit(1)


@app.command(short_help="Show what is said when, and why.")
@photos_argument()
@out_option("Folder for the pages and pictures.")
@model_option
@beam_option
@threads_option
@click.option(
    "--words/--no-words",
    default=None,
    help="Also show the words that a speech recogniser hears (extra `words`). By default where it is installed.",
)
def explain(
    photos: tuple[Path, ...], out: Path, model: str, beam: int | None, threads: int, words: bool | None
) -> None:
    """Show what is said about photos, when, and where the model looked: OUT/<name>.explained.html and .png for each.

    PHOTO is a photo, or a folder to look through.
    """
    from im2sp.captioner import Captioner
    from im2sp.explain.words import WordListener, can_listen
    from im2sp.explain.writing import write_explanations
    from im2sp.image.finding import Photos

    sources = Photos(photos)
    survey = sources.survey()
    for problem in survey.problems:
        click.echo(problem, err=True)
    captioner = Captioner.from_pretrained(model, threads=threads)
    options = captioner.default_options
    options = replace(options, beam=beam) if beam else options
    wanted = can_listen() if words is None else words
    listener = WordListener(captioner.bundle.config.language, threads) if wanted else None
    failed = bool(survey.problems)
    for result in write_explanations(sources, out, captioner, options, listener):
        failed |= not isinstance(result, Path)
        click.echo(str(result), err=not isinstance(result, Path))
    if failed:
        raise click.exceptions.Exit(1)


@app.command(short_help="Speak units.")
@click.argument("units", nargs=-1, required=True, metavar="UNITS...")
@out_option("The wav to write.")
@model_option
@threads_option
def speak(units: tuple[str, ...], out: Path, model: str, threads: int) -> None:
    """Speak units: a waveform from their numbers, with predicted durations.

    UNITS are numbers such as "12 5 77", @FILE, or - for standard input.
    """
    from im2sp.captioner import Captioner
    from im2sp.speech.audio import SAMPLE_RATE, write_wav
    from im2sp.speech.units import parse_units

    captioner = Captioner.from_pretrained(model, threads=threads)
    speech = captioner.speak(parse_units(_units_text(units), captioner.bundle.config.vocabulary.units))
    write_wav(out, speech.waveform)
    click.echo(f"{out}: {len(speech.waveform) / SAMPLE_RATE:.1f} s of speech from {len(speech.units)} units")


@app.command(short_help="Print the units of a recording.")
@click.argument("speech", type=ANY_PATH)
@click.option("--keep-repeats", is_flag=True, help="One unit for every 20 ms.")
@json_option
@model_option
@threads_option
def units(speech: Path, keep_repeats: bool, as_json: bool, model: str, threads: int) -> None:
    """Print the units of a recording, repeats removed.

    SPEECH is a recording: WAV, FLAC, Ogg, MP3 and what else libsndfile reads.
    """
    from im2sp.captioner import Captioner
    from im2sp.speech.audio import UNIT_RATE, read_audio
    from im2sp.speech.units import remove_repeats

    frames = Captioner.from_pretrained(model, threads=threads).units(read_audio(speech))
    found, durations = (frames, frames * 0 + 1) if keep_repeats else remove_repeats(frames)
    if as_json:
        from json import dumps

        lists = {"units": found.tolist(), "durations": durations.tolist()}
        click.echo(dumps({"speech": str(speech), "unit_rate": UNIT_RATE, **lists}))
    else:
        click.echo(" ".join(map(str, found.tolist())))


@app.command(short_help="Tell what a bundle is.")
@model_option
@json_option
def info(model: str, as_json: bool) -> None:
    """Tell what a bundle is: sizes, checksums (verified), training data, measured quality."""
    from im2sp.bundle import Bundle, find_bundle
    from im2sp.cli.console import bundle_json, show_bundle

    description = Bundle.load(find_bundle(model)).describe()
    if as_json:
        click.echo(bundle_json(description))
    else:
        show_bundle(description)


@app.command(short_help="Serve a page and an HTTP interface.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen; other machines get in only with a token.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--token-file", type=ANY_PATH, help="File with the token that clients must send; or set IM2SP_TOKEN.")
@click.option("--allow-host", multiple=True, help="A name by which clients call this service; may be given again.")
@click.option("--certificate", type=ANY_PATH, help="For https: the certificate, PEM.")
@click.option("--key", type=ANY_PATH, help="For https: its key, PEM.")
@click.option("--queue", type=click.IntRange(1, 1024), default=16, show_default=True, help="Photos taken on at a time.")
@click.option("--share", type=click.IntRange(1, 1024), default=8, show_default=True, help="Of them, by one client.")
@click.option(
    "--rate",
    type=click.IntRange(0),
    default=120,
    show_default=True,
    help="Requests a minute by one client; 0: no limit.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Photos that the image encoder sees at once.",
)
@model_option
@threads_option
def serve(
    host: str,
    port: int,
    token_file: Path | None,
    allow_host: tuple[str, ...],
    certificate: Path | None,
    key: Path | None,
    queue: int,
    share: int,
    rate: int,
    batch: int,
    model: str,
    threads: int,
) -> None:
    """Serve a page and an HTTP interface that speak about photos, until Ctrl-C."""
    try:
        from im2sp.server.run import run
        from im2sp.server.settings import Settings, read_token
    except ModuleNotFoundError as error:
        raise Im2SpError(f"im2sp serve needs {error.name}: pip install 'im2sp[serve]'") from error
    from im2sp.captioner import Captioner

    settings = Settings(
        host=host,
        port=port,
        token=read_token(token_file),
        allowed_hosts=allow_host,
        queue=queue,
        share=share,
        rate=rate,
        batch=batch,
    )
    captioner = Captioner.from_pretrained(model, threads=threads)
    run(
        captioner,
        settings,
        lambda address: click.echo(f"im2sp speaks at {address} (Ctrl-C ends it)"),
        certificate=certificate,
        key=key,
    )


def _voice(wishes: Wishes) -> Voice:
    """What the options of `caption` and `watch` ask for. Raises BadParameter where they do not go together."""
    if wishes.out is None and not wishes.play:
        raise click.BadParameter("say where the speech goes: give --out, --play or both", param_hint="--out")
    if wishes.temperature > 0 and (wishes.beam or 1) > 1:
        raise click.BadParameter("sampling knows no beam; give --temperature or --beam", param_hint="--beam")
    from im2sp.batch import Voice

    decoding: list[tuple[str, int | float]] = [
        ("temperature", wishes.temperature),
        ("seed", wishes.seed),
        ("min_confidence", wishes.min_confidence),
    ]
    if wishes.beam is not None or wishes.play:
        decoding.append(("beam", wishes.beam or 1))
    return Voice(wishes.model, wishes.threads, tuple(decoding))


def _speak_all(sources: Sequence[Path], out: Path | None, aloud: bool, voice: Voice, workers: int) -> None:
    """Run a batch and tell about it. Ends in exit code 1 when anything could not be spoken."""
    from im2sp.bundle import find_bundle
    from im2sp.cli.console import result_line, tally

    photos = _photos(sources, voice.model)
    survey = photos.survey()
    for problem in survey.problems:
        click.echo(problem, err=True)
    if survey.count == 0:
        raise click.exceptions.Exit(1)
    # A misspelt name must not leave an empty folder behind, and all workers speak with the same files.
    voice = replace(voice, model=str(find_bundle(voice.model)))
    single = survey.count == 1 and not sources[0].is_dir()
    with _destinations(out, aloud) as (journal, sink), tally(survey.count) as counts:
        try:
            with closing(_spoken(photos, voice, workers, journal, sink)) as outcomes:
                for outcome in outcomes:
                    counts.add(outcome)
                    if single and outcome.record is not None:
                        click.echo(result_line(outcome.record, out))
        except KeyboardInterrupt:
            if journal is None or sink is not None:
                fail(f"stopped: {counts}", INTERRUPTED)
            counts.done = journal.added  # with those that were finished while stopping
            fail(f"stopped: {counts}; run the same command again to go on", INTERRUPTED)
        except Im2SpError as error:
            fail(f"{error} ({counts})" if counts.done else str(error))
    if not single or counts.skipped:
        click.echo(f"{out}: {counts}" if out else str(counts))
    if counts.failed > 1 or (counts.failed and not single):
        click.echo(f"{counts.failed} of {survey.count} photos could not be spoken", err=True)
    if counts.failed or survey.problems:
        raise click.exceptions.Exit(1)


def _photos(sources: Sequence[Path], model: str) -> Photos | StoredPhotos:
    """The photos that are meant: files and folders, or tables for that bundle."""
    from im2sp.bundle import Bundle, find_bundle
    from im2sp.image.finding import Photos
    from im2sp.image.stored import StoredPhotos, is_table

    tables = [source for source in sources if is_table(source)]
    if not tables:
        return Photos(sources)
    if len(tables) < len(sources):
        raise click.BadParameter("give photos or tables of image units, not both at once", param_hint="PHOTO")
    return StoredPhotos(tables, Bundle.load(find_bundle(model)).image_tokenizer)


@contextmanager
def _destinations(out: Path | None, aloud: bool) -> Iterator[tuple[Journal | None, Loudspeaker | None]]:
    """Where speech goes: the journal of a folder, a loudspeaker, or both."""
    from im2sp.manifest import open_journal
    from im2sp.playing import Loudspeaker

    with ExitStack() as opened:
        sink = opened.enter_context(Loudspeaker()) if aloud else None
        yield opened.enter_context(open_journal(out)) if out else None, sink


def _spoken(
    photos: Photos | StoredPhotos, voice: Voice, workers: int, journal: Journal | None, sink: Loudspeaker | None
) -> Generator[Outcome, None, None]:
    from im2sp.batch import speak_in_turn, speak_photos

    if journal is None or sink is not None:
        return speak_in_turn(photos, voice, journal, sink)
    return speak_photos(photos, journal, voice, workers)


def _collect(
    sources: Sequence[Path],
    out: Path,
    voice: Voice,
    workers: int,
    collection: Collection,
    captions: bool,
) -> None:
    """Make a collection on Ray and tell about it. Ends in exit code 1 when anything could not be read."""
    from im2sp.bundle import Bundle, find_bundle
    from im2sp.cli.console import tally
    from im2sp.collections.planning import SHARD, Reading, plan_shards

    bundle = Bundle.load(find_bundle(voice.model))
    voice = replace(voice, model=str(bundle.folder.absolute()))  # one folder for all workers
    tokenizer = bundle.config.image_units if captions else None
    plan = plan_shards(
        sources, Reading(collection.shard or SHARD, collection.fetch_urls, collection.private_addresses, tokenizer)
    )
    for problem in plan.problems:
        click.echo(problem, err=True)
    if not plan.slices:
        raise click.exceptions.Exit(1)
    words = ("speaking", "spoken") if captions else ("tokenizing", "tokenized")
    with tally(plan.photos, *words) as counts:
        try:
            with closing(_shards(plan, out, voice, workers, collection.object_store, captions)) as results:
                for result in results:
                    counts.add_shard(result)
        except KeyboardInterrupt:
            fail(f"stopped: {counts}; run the same command again to go on", INTERRUPTED)
        except Im2SpError as error:
            fail(f"{error} ({counts})" if counts.done else str(error))
    click.echo(f"{out}: {counts}")
    if counts.failed:
        where = out / f"{'captions' if captions else 'errors'}-*.parquet"
        click.echo(f"{counts.failed} failed: the column error of {where} says why", err=True)
    if counts.failed or plan.problems:
        raise click.exceptions.Exit(1)


def _shards(
    plan: Plan, out: Path, voice: Voice, workers: int, object_store: int | None, captions: bool
) -> Generator[ShardResult, None, None]:
    from im2sp.collections.cluster import OBJECT_STORE, Workers
    from im2sp.collections.running import make_captions, make_units

    make = make_captions if captions else make_units
    return make(plan, out, voice, Workers(workers, object_store or OBJECT_STORE))


def _units_text(words: Sequence[str]) -> str:
    """The units that the argument names: themselves, a file or standard input, read no further than needed."""
    from im2sp.speech.units import TEXT_LIMIT

    text = " ".join(words)
    try:
        if text == "-":
            return sys.stdin.read(TEXT_LIMIT + 1)
        if text.startswith("@"):
            with open(text[1:], encoding="utf-8") as file:
                return file.read(TEXT_LIMIT + 1)
    except UnicodeDecodeError as error:
        raise Im2SpError(f"{'standard input' if text == '-' else text[1:]}: is not a text of units") from error
    return text
