"""Options that several commands share, and the frozen dataclasses that their values arrive in."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from im2sp.files import ADDRESS

if TYPE_CHECKING:
    from im2sp.batch import CaptionerConfig

AnyCommand = Callable[..., None]


class _AnyPath(click.ParamType[Path]):
    """A path, opened and complained about by the function that reads it."""

    name = "path"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Refuse what cannot be meant: nothing, as of an unset shell variable, and addresses."""
        if isinstance(value, Path):
            return value
        text = str(value)
        if not text:
            self.fail("it is empty; is a shell variable unset?", param, ctx)
        if "://" in text and not os.path.exists(text):
            self.fail(f"{text}: {ADDRESS}", param, ctx)
        return Path(text)


ANY_PATH = _AnyPath()

model_option = click.option(
    "--model",
    default="default",
    metavar="MODEL",
    help="Name of a packaged bundle, a bundle folder, or owner/name[@revision] on the hub.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(0, 1024),
    default=0,
    help="CPU threads of each process; 0 takes what is there.",
)
beam_option = click.option("--beam", type=click.IntRange(1, 64), help="Beam size; 1 is greedy and fastest.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    help="Processes, each with its own copy of the model.",
)
rate_option = click.option(
    "--rate",
    type=click.FloatRange(0.5, 3),
    default=1.0,
    help="Speed; the pitch stays. Above 1.5, listeners need practice.",
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON; of photos, a line each.")
photos_argument = click.argument("photos", type=ANY_PATH, nargs=-1, required=True, metavar="PHOTO...")


def out_option(help: str, *, required: bool = True) -> Callable[[AnyCommand], AnyCommand]:
    """Return the option `--out` with this help text."""
    return click.option("--out", "-o", type=ANY_PATH, required=required, help=help)


@dataclass(frozen=True)
class CaptionOptions:
    """Options of `caption` and `watch`."""

    out: Path | None
    play: bool
    model: str
    threads: int
    beam: int | None
    temperature: float
    seed: int
    min_confidence: float | None
    always: bool
    rate: float
    quiet: bool
    as_json: bool
    words: bool | None

    def __post_init__(self) -> None:
        if self.temperature > 0 and (self.beam or 1) > 1:
            raise click.BadParameter("sampling knows no beam; give --temperature or --beam", param_hint="--beam")
        if self.always and self.min_confidence:
            raise click.BadParameter("give --always or --min-confidence, not both", param_hint="--always")

    def config(self) -> CaptionerConfig:
        """Return the bundle and the decoding options that differ from its defaults. Playback is greedy by default."""
        from im2sp.batch import CaptionerConfig

        beam = self.beam or (1 if self.play else None)
        decoding = {"temperature": self.temperature, "seed": self.seed, "min_confidence": self.min_confidence}
        decoding |= {"always_speak": self.always, "rate": self.rate} | ({"beam": beam} if beam else {})
        return CaptionerConfig(self.model, self.threads, tuple(decoding.items()), self.wants_words())

    def wants_words(self) -> bool:
        """Whether a recogniser is to listen: where it is asked for, and in JSON wherever there is one."""
        from im2sp.speech.whisper import WordRecogniser

        return (self.as_json and WordRecogniser.is_installed()) if self.words is None else self.words


def caption_options(command: AnyCommand) -> AnyCommand:
    """Add the options of a command that captions photos; it receives them as `options`, a CaptionOptions."""

    @out_option("Folder for the speech and captions.jsonl; of one photo also NAME.wav or -.", required=False)
    @click.option("--play", is_flag=True, help="Speak aloud while it decodes; greedy unless --beam is given.")
    @model_option
    @beam_option
    @click.option(
        "--temperature",
        type=click.FloatRange(0, 100),
        default=0.0,
        help="Above 0: sample, without a beam.",
    )
    @click.option("--seed", type=click.IntRange(0), default=0, help="Of the sampling.")
    @click.option(
        "--min-confidence",
        type=click.FloatRange(0, 1),
        help="Say that it cannot tell where a caption is less likely to be right; 0: never. The bundle's by default.",
    )
    @click.option("--always", is_flag=True, help="Speak every caption as it is, however doubtful.")
    @rate_option
    @threads_option
    @quiet_option
    @json_option
    @click.option(
        "--words/--no-words",
        default=None,
        help="Print what a recogniser heard (extra `words`); by default in JSON, where it is installed.",
    )
    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        options = CaptionOptions(**{field.name: values.pop(field.name) for field in fields(CaptionOptions)})
        command(options=options, **values)

    return wrapped


raw_option = click.option("--raw", is_flag=True, help="Write 16-bit samples at 16 kHz without a header.")
ray_option = click.option(
    "--ray", is_flag=True, help="For very many photos, also in tars and Parquet tables: workers on Ray Data."
)
