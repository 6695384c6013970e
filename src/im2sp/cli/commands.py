"""The commands of `im2sp`. Exit codes: 0, 1 with a sentence on stderr, 2 for wrong usage, 130 after Ctrl-C."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import replace
from pathlib import Path

import click

from im2sp.cli.group import LAZY_COMMANDS, Group
from im2sp.cli.options import (
    ANY_PATH,
    CaptionOptions,
    beam_option,
    caption_options,
    json_option,
    model_option,
    out_option,
    photos_argument,
    rate_option,
    raw_option,
    ray_option,
    threads_option,
    workers_option,
)
from im2sp.errors import Im2SpError

# Numpy, onnxruntime and the rest are imported inside the commands, so that `im2sp --help` answers at once.


def main() -> None:
    """Run the command `im2sp`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be printable
            stream.reconfigure(errors="backslashreplace")
    # Numpy's BLAS would start threads that spin for a while, next to graphs that are being opened. Nothing here
    # multiplies large matrices outside onnxruntime, which has threads of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app(prog_name="im2sp")


def _show_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        import im2sp

        click.echo(f"im2sp {im2sp.__version__}")
        raise click.exceptions.Exit


@click.group(
    cls=Group,
    lazy=LAZY_COMMANDS,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Language and voice are the bundle's: see im2sp info. Completion: see docs/howto/command-line.md.",
)
@click.option(
    "--version",
    "-V",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version and exit.",
)
def app() -> None:
    """A photo goes in, a spoken description comes out, with no text in between."""


@app.command(short_help="Speak about photos.")
@photos_argument
@caption_options
@click.option("--force", is_flag=True, help="Speak again about photos that are done.")
@raw_option
@workers_option
@ray_option
def caption(photos: tuple[Path, ...], options: CaptionOptions, force: bool, raw: bool, workers: int, ray: bool) -> None:
    """Speak about photos: OUT/<name>.wav for each, and a line in OUT/captions.jsonl; with --play, aloud.

    One photo without either is spoken aloud or, where nothing can be played, into <name>.wav in this folder.

    PHOTO is a photo, a folder of them, a table that im2sp tokenize wrote, or - for a photo on standard input. With one
    photo OUT may be NAME.wav, or - for standard output. Run again, it goes on where it stopped: photos that are done,
    and have not changed, are skipped, unless the model or the options are others. With --ray: tables
    OUT/captions-*.parquet, with the wavs.
    """
    if options.play and workers > 1:
        raise click.BadParameter("only one can speak aloud at a time; give --play or --workers", param_hint="--workers")
    from im2sp.cli.batch import caption_on_ray, caption_photo, caption_photos
    from im2sp.cli.streams import is_standard_stream
    from im2sp.image.unit_table import is_table

    if ray:
        if options.play or options.out is None or options.as_json or options.words:
            wrong = "what Ray makes goes to tables in a folder; give --out, not --play, --json or --words"
            raise click.BadParameter(wrong, param_hint="--ray")
        caption_on_ray(photos, options.out, options.config(), workers, force)
        return
    single = len(photos) == 1 and not photos[0].is_dir() and not is_table(photos[0])
    to_file = options.out is not None and _is_file(options.out)
    stream = any(map(is_standard_stream, photos))
    if raw and not to_file:
        raise click.BadParameter("samples without a header go to one file; give -o - or a name", param_hint="--raw")
    if single and (to_file or (stream and options.play) or (options.out is None and not stream)):
        caption_photo(photos[0], options, raw)
    elif to_file or stream:
        raise click.BadParameter("one photo goes to one NAME.wav or -, several to a folder", param_hint="--out")
    elif options.out is not None or options.play:
        caption_photos(photos, options, workers, force)
    else:
        raise click.BadParameter("say where the speech goes: give --out, --play or both", param_hint="--out")


def _is_file(out: Path) -> bool:
    """Return whether speech goes to `out` itself, not into a folder of that name. Only .wav is then written."""
    from im2sp.cli.streams import is_standard_stream

    named = out.suffix.lower() in (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a") and not out.is_dir()
    return named or is_standard_stream(out) or out.is_fifo() or out.is_char_device()


@app.command(short_help="Speak about each new photo in a folder.")
@click.argument("folder", type=ANY_PATH)
@caption_options
def watch(folder: Path, options: CaptionOptions) -> None:
    """Speak about each new photo in a folder as it appears, aloud or into OUT, until Ctrl-C.

    Photos may also appear in folders below FOLDER.
    """
    from im2sp.cli.batch import caption_new_photos

    if options.out is None and not options.play:
        raise click.BadParameter("say where the speech goes: give --out, --play or both", param_hint="--out")

    caption_new_photos(folder, options)


@app.command(short_help="Store photos as image units.")
@photos_argument
@out_option("The table to write: a name that ends in .parquet.")
@model_option
@threads_option
@workers_option
@ray_option
def tokenize(photos: tuple[Path, ...], out: Path, model: str, threads: int, workers: int, ray: bool) -> None:
    """Store photos as image units: one table, from which im2sp caption speaks as it does from the photos.

    PHOTO is a photo, or a folder to look through. The table appears when it is complete. Run again after a stop, it
    goes on where it stopped.
    """
    if workers > 1 and not ray:
        raise click.BadParameter("several processes tokenize with --ray only; give both", param_hint="--workers")
    from im2sp.batch import CaptionerConfig
    from im2sp.cli.batch import tokenize_on_ray, tokenize_photos

    if ray:
        tokenize_on_ray(photos, out, CaptionerConfig(model, threads), workers)
    else:
        tokenize_photos(photos, out, CaptionerConfig(model, threads))


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
    from im2sp.image.unit_table import UnitTables
    from im2sp.tokenizing import reconstruct_photos

    captioner = Captioner.from_pretrained(model, threads=threads)
    photos = UnitTables(tables, captioner.image_tokenizer)
    survey = photos.survey()
    for path in reconstruct_photos(photos, out, captioner):
        click.echo(str(path))
    for problem in survey.problems:
        click.echo(problem, err=True)
    if survey.problems:
        raise click.exceptions.Exit(1)


@app.command(short_help="Show what is said when, and why.")
@photos_argument
@out_option("Folder for the pages.")
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
    """Show what is said about photos, when, and where the model looked: OUT/<name>.explained.html for each.

    PHOTO is a photo, or a folder to look through.
    """
    from im2sp.captioner import Captioner
    from im2sp.cli.console import finish, show_problems
    from im2sp.explain.page import write_explanations
    from im2sp.image.finding import Photos
    from im2sp.speech.whisper import WordRecogniser

    sources = Photos(photos)
    survey = sources.survey()
    show_problems(survey)
    captioner = Captioner.from_pretrained(model, threads=threads)
    options = captioner.default_options
    options = replace(options, beam=beam) if beam else options
    wanted = WordRecogniser.is_installed() if words is None else words
    recogniser = WordRecogniser(captioner.bundle.config.language, threads) if wanted else None
    failed = False
    for result in write_explanations(sources, out, captioner, options, recogniser):
        failed |= not isinstance(result, Path)
        click.echo(str(result), err=not isinstance(result, Path))
    finish(survey, failed=failed)


@app.command(short_help="Speak units.")
@click.argument("units", nargs=-1, required=True, metavar="UNITS...")
@out_option("The wav to write, or - for standard output.")
@raw_option
@model_option
@rate_option
@threads_option
def speak(units: tuple[str, ...], out: Path, raw: bool, model: str, rate: float, threads: int) -> None:
    """Speak units: a waveform from their numbers, with predicted durations.

    UNITS are numbers such as "12 5 77", @FILE, or - for standard input.
    """
    from im2sp.captioner import Captioner
    from im2sp.cli.streams import is_standard_stream, write_waveform
    from im2sp.speech.audio import SAMPLE_RATE
    from im2sp.speech.units import parse_units

    captioner = Captioner.from_pretrained(model, threads=threads)
    parsed = parse_units(_read_units(" ".join(units)), captioner.bundle.config.vocabulary.units)
    speech = captioner.speak(parsed, rate=rate)
    write_waveform(out, speech.waveform, raw=raw)
    seconds = len(speech.waveform) / SAMPLE_RATE
    line = f"{out}: {seconds:.1f} s of speech from {len(speech.units)} units"
    click.echo(line, err=is_standard_stream(out))


def _read_units(source: str) -> str:
    """Return the text that `source` names: itself, @FILE or - for standard input, read no further than needed."""
    from im2sp.speech.units import TEXT_LIMIT

    try:
        if source == "-":
            return sys.stdin.read(TEXT_LIMIT + 1)
        if source.startswith("@"):
            with open(source[1:], encoding="utf-8") as file:
                return file.read(TEXT_LIMIT + 1)
    except UnicodeDecodeError as error:
        raise Im2SpError(f"{'standard input' if source == '-' else source[1:]}: is not a text of units") from error
    return source


@app.command(short_help="Print the units of a recording.")
@click.argument("speech", type=ANY_PATH)
@click.option("--keep-repeats", is_flag=True, help="One unit for every 20 ms.")
@json_option
@model_option
@threads_option
def units(speech: Path, keep_repeats: bool, as_json: bool, model: str, threads: int) -> None:
    """Print the units of a recording, repeats removed.

    SPEECH is a recording (WAV, FLAC, Ogg, MP3 and what else libsndfile reads), or - for one on standard input.
    """
    import json

    from im2sp.captioner import Captioner
    from im2sp.cli.streams import is_standard_stream, standard_input
    from im2sp.speech.audio import MAX_FILE_BYTES, UNIT_RATE, read_audio
    from im2sp.speech.units import remove_repeats

    frames = Captioner.from_pretrained(model, threads=threads).units(
        read_audio(standard_input(MAX_FILE_BYTES) if is_standard_stream(speech) else speech)
    )
    found, durations = (frames, frames * 0 + 1) if keep_repeats else remove_repeats(frames)
    if as_json:
        lists = {"units": found.tolist(), "durations": durations.tolist()}
        click.echo(json.dumps({"speech": str(speech), "unit_rate": UNIT_RATE, **lists}))
    else:
        click.echo(" ".join(map(str, found.tolist())))


@app.command(short_help="Tell what a bundle is.")
@model_option
@json_option
def info(model: str, as_json: bool) -> None:
    """Tell what a bundle is: sizes, checksums (verified), training data, measured quality."""
    from im2sp.bundle import Bundle, find_bundle
    from im2sp.cli.console import bundle_json, show_bundle

    bundle = Bundle.load(find_bundle(model))
    if as_json:
        click.echo(bundle_json(bundle))
    else:
        show_bundle(bundle)
