"""The command line: parses, calls, prints. Whatever goes wrong is one sentence on stderr and exit code 1 (2: usage)."""

from __future__ import annotations

import functools
import io
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, ParamSpec

import typer

from im2sp.errors import Im2SpError
from im2sp.sentences import debugging, reason, unexpected

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from im2sp.batch import Outcome, Voice
    from im2sp.collections.planning import Plan
    from im2sp.collections.shards import ShardResult
    from im2sp.images.finding import Photos
    from im2sp.images.stored import StoredPhotos
    from im2sp.journal import Journal
    from im2sp.playing import Loudspeaker

# Numpy, onnxruntime and the rest are imported inside the commands, so that `im2sp --help` answers at once.

P = ParamSpec("P")
STOPPED = 130  # exit code after Ctrl-C, as shells have it

app = typer.Typer(
    help="A photo goes in, a spoken description comes out, with no text in between.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str,
    typer.Option(
        help="Name of a packaged bundle, a bundle folder, or owner/name[@revision] on the hub.", metavar="NAME|DIR|ID"
    ),
]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="CPU threads of each process; 0 takes what is there.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the speech and captions.jsonl.")]
Play = Annotated[bool, typer.Option("--play", help="Speak aloud, while it decodes; greedily unless --beam says else.")]
Beam = Annotated[int | None, typer.Option(min=1, max=64, help="Hypotheses side by side; 1 is fastest.")]
Temperature = Annotated[float, typer.Option(min=0, max=100, help="Above 0: sample, without a beam.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the sampling.")]
MinConfidence = Annotated[
    float,
    typer.Option(min=0, max=1, help="Say that it is not sure where a caption is less likely to be right; 0: never."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Count = Annotated[
    int, typer.Option("--workers", min=1, max=256, help="Processes, each with its own copy of the model.")
]
OnRay = Annotated[
    bool, typer.Option("--ray", help="For very many photos, also in tars and Parquet: shards, by workers on Ray.")
]
ShardSize = Annotated[int | None, typer.Option("--shard", min=1, max=100_000, help="With --ray: photos of a shard.")]
ObjectStore = Annotated[
    int | None, typer.Option("--object-store", min=80, max=2**20, help="With --ray: MB that its processes share.")
]
FetchUrls = Annotated[
    bool, typer.Option("--fetch-urls", help="With --ray: fetch the photos that Parquet tables name by URL.")
]
PrivateAddresses = Annotated[
    bool, typer.Option("--private-addresses", help="With --fetch-urls: also from private networks and this machine.")
]


def main() -> None:
    """Entry point of the `im2sp` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be printable
            stream.reconfigure(errors="backslashreplace")
    app()


def in_sentences(command: Callable[P, None]) -> Callable[P, None]:
    """Turn whatever a command raises into one sentence on stderr and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        if not sys.warnoptions and not debugging():
            warnings.simplefilter("ignore")  # of libraries about odd files, which say nothing to the one who captions
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):  # typer's own business
            raise
        except KeyboardInterrupt:
            _fail("stopped", STOPPED)
        except Im2SpError as error:
            _fail(str(error))
        except OSError as error:
            _fail(f"{error.filename}: {reason(error)}" if error.filename else reason(error))
        except Exception as error:
            _fail(unexpected(error))

    return wrapped


def _show_version(wanted: bool) -> None:
    if wanted:
        import im2sp

        typer.echo(f"im2sp {im2sp.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A photo goes in, a spoken description comes out, with no text in between."""


@app.command()
@in_sentences
def caption(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO", help="Photos and folders; or tables that im2sp tokenize wrote.")
    ],
    out: Out = None,
    play: Play = False,
    model: Model = "default",
    beam: Beam = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    min_confidence: MinConfidence = 0.0,
    workers: Count = 1,
    threads: Threads = 0,
    ray: OnRay = False,
    shard: ShardSize = None,
    object_store: ObjectStore = None,
    fetch_urls: FetchUrls = False,
    private_addresses: PrivateAddresses = False,
) -> None:
    """Speak about photos: OUT/<name>.wav for each, and a line in OUT/captions.jsonl; with --play, aloud.

    With --ray: tables OUT/captions-*.parquet, and the wavs in OUT/wavs-*.tar. Run again, it goes on where it stopped.
    """
    if play and workers > 1:
        raise typer.BadParameter("only one can speak aloud at a time; give --play or --workers", param_hint="--workers")
    voice = _voice(out, play, model, threads, beam, temperature, seed, min_confidence)
    _check_ray_options(ray, shard, object_store, fetch_urls, private_addresses)
    if not ray:
        _speak_all(photos, out, play, voice, workers)
        return
    if play or out is None:
        raise typer.BadParameter("what Ray makes goes to a folder; give --out, not --play", param_hint="--ray")
    _collect(photos, out, voice, workers, object_store, (shard, fetch_urls, private_addresses), captions=True)


@app.command()
@in_sentences
def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where photos will appear, also further below.")],
    out: Out = None,
    play: Play = False,
    model: Model = "default",
    beam: Beam = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    min_confidence: MinConfidence = 0.0,
    threads: Threads = 0,
) -> None:
    """Speak about each new photo in a folder as it appears, aloud or into OUT, until Ctrl-C."""
    voice = _voice(out, play, model, threads, beam, temperature, seed, min_confidence)
    from im2sp.batch import speak_in_turn
    from im2sp.bundle import find_bundle
    from im2sp.console import result_line
    from im2sp.watching import Watch

    voice = replace(voice, model=str(find_bundle(model)))  # a misspelt name must not leave an empty folder behind
    photos = Watch(folder)
    with _destinations(out, play) as (journal, sink):
        typer.echo(f"{folder}: waiting for new photos until Ctrl-C")
        try:
            for outcome in speak_in_turn(photos, voice, journal, sink):
                if outcome.record is not None:
                    typer.echo(result_line(outcome.record, out))
                else:
                    typer.echo(outcome.error, err=True)
        except KeyboardInterrupt:  # the way to end it
            raise typer.Exit from None


@app.command()
@in_sentences
def tokenize(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Photos, and folders to look through.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The table to write: a name that ends in .parquet; with --ray, a folder."),
    ],
    model: Model = "default",
    workers: Count = 1,
    threads: Threads = 0,
    ray: OnRay = False,
    shard: ShardSize = None,
    object_store: ObjectStore = None,
    fetch_urls: FetchUrls = False,
    private_addresses: PrivateAddresses = False,
) -> None:
    """Store photos as image units: one table, from which im2sp caption speaks as it does from the photos.

    The table appears when it is complete. With --ray: tables OUT/units-*.parquet. Run again after a stop, it goes on
    where it stopped.
    """
    _check_ray_options(ray, shard, object_store, fetch_urls, private_addresses)
    if ray:
        from im2sp.batch import Voice

        voice = Voice(model, threads)
        _collect(photos, out, voice, workers, object_store, (shard, fetch_urls, private_addresses), captions=False)
        return
    if workers > 1:
        raise typer.BadParameter("several processes tokenize with --ray only; give both", param_hint="--workers")
    from im2sp.captioner import Captioner
    from im2sp.console import tally
    from im2sp.images.finding import Photos
    from im2sp.images.stored import SUFFIX
    from im2sp.tokenizing import tokenize_photos

    if out.suffix.lower() != SUFFIX:
        raise typer.BadParameter(f"the name of a table ends in {SUFFIX}", param_hint="--out")
    sources = Photos(photos)
    survey = sources.survey()
    for problem in survey.problems:
        typer.echo(problem, err=True)
    if survey.count == 0:
        raise typer.Exit(1)
    captioner = Captioner.from_pretrained(model, threads=threads)
    with tally(survey.count, "tokenizing", "tokenized") as counts:
        try:
            with closing(tokenize_photos(sources, out, captioner)) as outcomes:
                for outcome in outcomes:
                    counts.add(outcome)
        except KeyboardInterrupt:
            _fail(f"stopped: {counts}; run the same command again to go on", STOPPED)
        except Im2SpError as error:
            _fail(f"{error} ({counts})" if counts.done else str(error))
    if counts.done or counts.skipped:
        typer.echo(f"{out}: {counts}, {captioner.image_tokenizer.bits:,} bits each")
    if counts.failed or survey.problems:
        raise typer.Exit(1)


@app.command()
@in_sentences
def reconstruct(
    tables: Annotated[list[Path], typer.Argument(metavar="TABLE", help="Tables that im2sp tokenize wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")],
    model: Model = "default",
    threads: Threads = 0,
) -> None:
    """Show what image units still hold of the photos: OUT/<name>.reconstructed.png for each."""
    from im2sp.captioner import Captioner
    from im2sp.images.stored import StoredPhotos
    from im2sp.reconstructing import write_reconstructions

    captioner = Captioner.from_pretrained(model, threads=threads)
    photos = StoredPhotos(tables, captioner.image_tokenizer)
    survey = photos.survey()
    for path in write_reconstructions(photos, out, captioner):
        typer.echo(str(path))
    for problem in survey.problems:
        typer.echo(problem, err=True)
    if survey.problems:
        raise typer.Exit(1)


@app.command()
@in_sentences
def explain(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Photos, and folders to look through.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pages and pictures.")],
    model: Model = "default",
    beam: Beam = None,
    threads: Threads = 0,
) -> None:
    """Show what is said about photos, when, and where the model looked: OUT/<name>.explained.html and .png for each."""
    from im2sp.captioner import Captioner
    from im2sp.explaining.writing import write_explanations
    from im2sp.images.finding import Photos

    sources = Photos(photos)
    survey = sources.survey()
    for problem in survey.problems:
        typer.echo(problem, err=True)
    captioner = Captioner.from_pretrained(model, threads=threads)
    options = captioner.default_options
    failed = bool(survey.problems)
    for result in write_explanations(sources, out, captioner, replace(options, beam=beam) if beam else options):
        failed |= not isinstance(result, Path)
        typer.echo(str(result), err=not isinstance(result, Path))
    if failed:
        raise typer.Exit(1)


@app.command()
@in_sentences
def describe(
    document: Annotated[Path, typer.Argument(metavar="FILE", help="A folder of pictures, an HTML page or an EPUB.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the speech and the report.")],
    model: Model = "default",
    beam: Beam = None,
    threads: Threads = 0,
) -> None:
    """Speak about the images of a document that lack a description; OUT/report.html tells which got what.

    Run again, it goes on where it stopped.
    """
    from im2sp.batch import Voice
    from im2sp.bundle import find_bundle
    from im2sp.describing.documents import open_document
    from im2sp.describing.report import count_states, write_report
    from im2sp.describing.speaking import speak_document
    from im2sp.journal import open_journal

    model = str(find_bundle(model))  # a misspelt name must not leave an empty folder behind
    voice = Voice(model, threads, (("beam", beam),) if beam else ())
    with open_document(document) as opened, open_journal(out) as journal:
        try:
            entries = list(speak_document(opened, journal, voice))
        except KeyboardInterrupt:
            _fail(f"stopped: {journal.added} images spoken; run the same command again to go on", STOPPED)
        report = write_report(out, document, opened.kind, entries)
    for entry in entries:
        if entry.error:
            typer.echo(": ".join(filter(None, (entry.page, entry.source, entry.error))), err=True)
    counts = count_states(entries)
    states = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    typer.echo(f"{report}: {states or 'no images'}")
    if counts["failed"]:
        raise typer.Exit(1)


@app.command()
@in_sentences
def speak(
    units: Annotated[list[str], typer.Argument(metavar="UNITS", help='"12 5 77", @FILE, or - for standard input.')],
    out: Annotated[Path, typer.Option("--out", "-o", help="The wav to write.")],
    model: Model = "default",
    threads: Threads = 0,
) -> None:
    """Speak units: a waveform from their numbers, with predicted durations."""
    from im2sp.captioner import Captioner
    from im2sp.speech.audio import SAMPLE_RATE, write_wav
    from im2sp.speech.units import parse_units

    captioner = Captioner.from_pretrained(model, threads=threads)
    speech = captioner.speak(parse_units(_units_text(units), captioner.bundle.config.vocabulary.units))
    write_wav(out, speech.waveform)
    typer.echo(f"{out}: {len(speech.waveform) / SAMPLE_RATE:.1f} s of speech from {len(speech.units)} units")


@app.command()
@in_sentences
def units(
    speech: Annotated[Path, typer.Argument(metavar="SPEECH", help="A recording: WAV, FLAC, Ogg, MP3, ...")],
    keep_repeats: Annotated[bool, typer.Option("--keep-repeats", help="One unit for every 20 ms.")] = False,
    json: Json = False,
    model: Model = "default",
    threads: Threads = 0,
) -> None:
    """Print the units of a recording, repeats removed."""
    from im2sp.captioner import Captioner
    from im2sp.speech.audio import UNIT_RATE, read_audio
    from im2sp.speech.units import remove_repeats

    frames = Captioner.from_pretrained(model, threads=threads).units(read_audio(speech))
    found, durations = (frames, frames * 0 + 1) if keep_repeats else remove_repeats(frames)
    if json:
        from json import dumps

        lists = {"units": found.tolist(), "durations": durations.tolist()}
        typer.echo(dumps({"speech": str(speech), "unit_rate": UNIT_RATE, **lists}))
    else:
        typer.echo(" ".join(map(str, found.tolist())))


@app.command()
@in_sentences
def info(model: Model = "default", json: Json = False) -> None:
    """Tell what a bundle is: sizes, checksums (verified), training data, measured quality."""
    from im2sp.bundle import Bundle, find_bundle
    from im2sp.console import bundle_json, show_bundle

    description = Bundle.load(find_bundle(model)).describe()
    if json:
        typer.echo(bundle_json(description))
    else:
        show_bundle(description)


@app.command()
@in_sentences
def serve(
    host: Annotated[str, typer.Option(help="Where to listen; other machines get in only with a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that clients must send; or set IM2SP_TOKEN.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name by which clients call this service; may be given again.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="For https: the certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="For https: its key, PEM.")] = None,
    queue: Annotated[int, typer.Option(min=1, max=1024, help="Photos taken on at a time.")] = 16,
    share: Annotated[int, typer.Option(min=1, max=1024, help="Of them, by one client.")] = 8,
    rate: Annotated[int, typer.Option(min=0, help="Requests a minute by one client; 0: no limit.")] = 120,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Photos that the image encoder sees at once.")] = 1,
    model: Model = "default",
    threads: Threads = 0,
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
        allowed_hosts=tuple(allow_host or ()),
        queue=queue,
        share=share,
        rate=rate,
        batch=batch,
    )
    captioner = Captioner.from_pretrained(model, threads=threads)
    run(
        captioner,
        settings,
        lambda address: typer.echo(f"im2sp speaks at {address} (Ctrl-C ends it)"),
        certificate=certificate,
        key=key,
    )


def _voice(
    out: Path | None,
    play: bool,
    model: str,
    threads: int,
    beam: int | None,
    temperature: float,
    seed: int,
    min_confidence: float,
) -> Voice:
    """What the options of `caption` and `watch` ask for. Raises BadParameter where they do not go together."""
    if out is None and not play:
        raise typer.BadParameter("say where the speech goes: give --out, --play or both", param_hint="--out")
    if temperature > 0 and (beam or 1) > 1:
        raise typer.BadParameter("sampling knows no beam; give --temperature or --beam", param_hint="--beam")
    from im2sp.batch import Voice

    decoding: list[tuple[str, int | float]] = [
        ("temperature", temperature),
        ("seed", seed),
        ("min_confidence", min_confidence),
    ]
    if beam is not None or play:
        decoding.append(("beam", beam or 1))
    return Voice(model, threads, tuple(decoding))


def _speak_all(sources: list[Path], out: Path | None, aloud: bool, voice: Voice, workers: int) -> None:
    """Run a batch and tell about it. Ends in exit code 1 when anything could not be spoken."""
    from im2sp.bundle import find_bundle
    from im2sp.console import result_line, tally

    photos = _photos(sources, voice.model)
    survey = photos.survey()
    for problem in survey.problems:
        typer.echo(problem, err=True)
    if survey.count == 0:
        raise typer.Exit(1)
    # A misspelt name must not leave an empty folder behind, and all workers speak with the same files.
    voice = replace(voice, model=str(find_bundle(voice.model)))
    single = survey.count == 1 and not sources[0].is_dir()
    with _destinations(out, aloud) as (journal, sink), tally(survey.count) as counts:
        try:
            with closing(_spoken(photos, voice, workers, journal, sink)) as outcomes:
                for outcome in outcomes:
                    counts.add(outcome)
                    if single and outcome.record is not None:
                        typer.echo(result_line(outcome.record, out))
        except KeyboardInterrupt:
            if journal is None or sink is not None:
                _fail(f"stopped: {counts}", STOPPED)
            counts.done = journal.added  # with those that were finished while stopping
            _fail(f"stopped: {counts}; run the same command again to go on", STOPPED)
        except Im2SpError as error:
            _fail(f"{error} ({counts})" if counts.done else str(error))
    if not single or counts.skipped:
        typer.echo(f"{out}: {counts}" if out else str(counts))
    if counts.failed > 1 or (counts.failed and not single):
        typer.echo(f"{counts.failed} of {survey.count} photos could not be spoken", err=True)
    if counts.failed or survey.problems:
        raise typer.Exit(1)


def _photos(sources: list[Path], model: str) -> Photos | StoredPhotos:
    """The photos that are meant: files and folders, or tables for that bundle."""
    from im2sp.bundle import Bundle, find_bundle
    from im2sp.images.finding import Photos
    from im2sp.images.stored import StoredPhotos, is_table

    tables = [source for source in sources if is_table(source)]
    if not tables:
        return Photos(sources)
    if len(tables) < len(sources):
        raise typer.BadParameter("give photos or tables of image units, not both at once", param_hint="PHOTO")
    return StoredPhotos(tables, Bundle.load(find_bundle(model)).image_tokenizer)


@contextmanager
def _destinations(out: Path | None, aloud: bool) -> Iterator[tuple[Journal | None, Loudspeaker | None]]:
    """Where speech goes: the journal of a folder, a loudspeaker, or both."""
    from im2sp.journal import open_journal
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


def _check_ray_options(
    ray: bool, shard: int | None, object_store: int | None, fetch_urls: bool, private_addresses: bool
) -> None:
    given = {
        "--shard": shard is not None,
        "--object-store": object_store is not None,
        "--fetch-urls": fetch_urls,
        "--private-addresses": private_addresses,
    }
    for name, is_given in given.items():
        if is_given and not ray:
            raise typer.BadParameter("only has a meaning with --ray; give both", param_hint=name)
    if private_addresses and not fetch_urls:
        raise typer.BadParameter("only has a meaning with --fetch-urls; give both", param_hint="--private-addresses")


def _collect(
    sources: list[Path],
    out: Path,
    voice: Voice,
    workers: int,
    object_store: int | None,
    reading: tuple[int | None, bool, bool],
    captions: bool,
) -> None:
    """Make a collection on Ray and tell about it. Ends in exit code 1 when anything could not be read."""
    from im2sp.bundle import Bundle, find_bundle
    from im2sp.collections.planning import SHARD, Reading, plan_shards
    from im2sp.console import tally

    bundle = Bundle.load(find_bundle(voice.model))
    voice = replace(voice, model=str(bundle.folder.absolute()))  # one folder for all workers
    shard, fetch, private = reading
    tokenizer = bundle.config.image_units if captions else None
    plan = plan_shards(sources, Reading(shard or SHARD, fetch, private, tokenizer))
    for problem in plan.problems:
        typer.echo(problem, err=True)
    if not plan.slices:
        raise typer.Exit(1)
    words = ("speaking", "spoken") if captions else ("tokenizing", "tokenized")
    with tally(plan.photos, *words) as counts:
        try:
            with closing(_shards(plan, out, voice, workers, object_store, captions)) as results:
                for result in results:
                    counts.add_shard(result)
        except KeyboardInterrupt:
            _fail(f"stopped: {counts}; run the same command again to go on", STOPPED)
        except Im2SpError as error:
            _fail(f"{error} ({counts})" if counts.done else str(error))
    typer.echo(f"{out}: {counts}")
    if counts.failed:
        where = out / f"{'captions' if captions else 'errors'}-*.parquet"
        typer.echo(f"{counts.failed} failed: the column error of {where} says why", err=True)
    if counts.failed or plan.problems:
        raise typer.Exit(1)


def _shards(
    plan: Plan, out: Path, voice: Voice, workers: int, object_store: int | None, captions: bool
) -> Generator[ShardResult, None, None]:
    from im2sp.collections.cluster import OBJECT_STORE, Workers
    from im2sp.collections.running import make_captions, make_units

    make = make_captions if captions else make_units
    return make(plan, out, voice, Workers(workers, object_store or OBJECT_STORE))


def _units_text(words: list[str]) -> str:
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


def _fail(sentence: str, code: int = 1) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
