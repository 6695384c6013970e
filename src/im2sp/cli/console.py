"""What the command line shows: the progress of a batch, the line for one photo, the table about a bundle."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins
from msgspec.structs import asdict as asdict_struct

from im2sp.cli.group import INTERRUPTED, fail
from im2sp.confidence import share_in_words
from im2sp.errors import Im2SpError
from im2sp.image.finding import left_out_line
from im2sp.speech.audio import UNIT_RATE

if TYPE_CHECKING:
    from pathlib import Path

    from click._termui_impl import ProgressBar

    from im2sp.batch import Result
    from im2sp.bundle import Bundle, ConfidenceConfig, ImageUnitsConfig
    from im2sp.cli.options import CaptionOptions
    from im2sp.image.finding import Survey
    from im2sp.manifest import Row


class Counts:
    """Photos that were done, skipped or failed. Moves a bar, and prints failures on stderr."""

    def __init__(self, verb: str, bar: ProgressBar[int] | None = None) -> None:
        """`verb`: a participle, such as "spoken"."""
        self.done = self.skipped = self.failed = 0
        self._verb = verb
        self._bar = bar

    def add(self, result: Result) -> None:
        """Count the result of one photo."""
        if result.skipped:
            self.skipped += 1
        elif result.error is None:
            self.done += 1
        else:
            self.failed += 1
            click.echo(f"\r\033[K{result.error}" if self._bar else result.error, err=True)  # in place of the bar
        if self._bar:
            self._bar.update(1)

    def __str__(self) -> str:
        return counts_line(self._verb, self.done, self.skipped, self.failed)


def counts_line(verb: str, done: int, skipped: int, failed: int) -> str:
    """Return counts of photos in words; `verb` is a participle, such as "spoken"."""
    parts = [f"{_plural(done, 'photo')} {verb}"]
    if skipped:
        parts.append(f"{skipped} skipped ({verb} before)")
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts)


@contextmanager
def progress(total: int, verb: str, *, resumable: bool = True, quiet: bool = False) -> Iterator[Counts]:
    """Count photos during the block, with a bar on a terminal unless there is one photo only or `quiet` is set.

    Ctrl-C and Im2SpError end the command with a sentence that has the counts; `resumable`: and says how to go on.
    """
    counts = Counts(verb)
    try:
        if quiet or total < 2 or not sys.stderr.isatty():
            yield counts
        else:
            with click.progressbar(length=total, label=verb, show_pos=True, file=sys.stderr) as bar:
                counts = Counts(verb, bar)
                yield counts
    except KeyboardInterrupt:
        fail(f"stopped: {counts}{'; run the same command again to go on' if resumable else ''}", INTERRUPTED)
    except Im2SpError as error:
        fail(f"{error} ({counts})" if counts.done else str(error))


def show_problems(survey: Survey) -> None:
    """Print what is wrong with the sources; end with exit code 1 when they have no photo at all."""
    for problem in survey.problems:
        click.echo(problem, err=True)
    if survey.count == 0:
        finish(survey, failed=True)


def finish(survey: Survey, *, failed: bool) -> None:
    """Name the kinds of pictures that were left out; end with exit code 1 where not every photo was done."""
    if survey.left_out:
        click.echo(left_out_line(survey.left_out), err=True)
    if failed or survey.problems or survey.left_out:
        raise click.exceptions.Exit(1)


def show_result(result: Result, out: Path | None, options: CaptionOptions, *, err: bool = False) -> None:
    """Print the result of one photo on stdout or stderr, in words or as JSON, unless it is to be quiet."""
    row = result.row
    if options.quiet:
        return
    if options.as_json:
        if row is not None:
            click.echo(json.dumps(asdict(row) | {"wav": str(out / row.wav) if out else None}), err=err)
        else:
            state = {"error": result.error} if result.error else {"skipped": True}
            click.echo(json.dumps({"image": os.path.abspath(result.photo)} | state), err=err)
    elif row is not None:
        click.echo(_result_line(row, out), err=err)


def _result_line(row: Row, out: Path | None) -> str:
    """Describe one caption in a line: its wav in `out`, or the photo where it was only played, and figures."""
    seconds = sum(row.durations) / UNIT_RATE
    confidence = "" if row.confidence is None else f"{share_in_words(row.confidence)}, "
    answer = "cannot tell what it shows, " if row.abstained else 'begins with "perhaps", ' if row.hedged else ""
    return (
        f"{out / row.wav if out else row.image}: {answer}"
        f"{seconds:.1f} s of speech, {_plural(len(row.units), 'unit')}, "
        f"score {row.score:.2f}, {confidence}made in {row.seconds:.2f} s"
        + ("" if row.heard is None else f'; a recogniser heard "{row.heard}"')
    )


def show_bundle(bundle: Bundle) -> None:
    """Print what a bundle is on stdout."""
    config, files = bundle.config, _files(bundle)
    facts = {
        "description": config.description,
        "made by": bundle.made_by,
        "license": config.license,
        "language": config.language,
        "created": config.created,
        "folder": bundle.folder,
        "size": _megabytes(sum(files.values())),
        "picture": f"{config.image.width} x {config.image.height} pixels, {config.image.image_tokens} image tokens",
        "image units": _image_units(config.image_units),
        "speech": f"{config.vocabulary.units} units, {config.decoder.vocabulary_size} tokens, "
        f"{config.vocoder.sample_rate} Hz",
        "speech to units": "yes" if config.speech_encoder else "no",
        "decoding": ", ".join(f"{name} {value}" for name, value in asdict_struct(config.decoding).items()),
        "confidence": _confidence(config.confidence),
    }
    sections: dict[str, Mapping[str, object]] = {
        f"{config.name} {config.version}": facts,
        "what it was trained on": config.training,
        "parameters": {graph: f"{number:,}" for graph, number in config.parameters.items()},
        "files, checksums verified": {
            name: f"{_megabytes(size)} {bundle.checksums[name]}" for name, size in files.items()
        },
    }
    for title, rows in sections.items():
        click.echo(title)
        for name, value in rows.items():
            line = f"  {name:<26} {value}"  # a bundle from elsewhere may hold anything
            click.echo("".join(character if character.isprintable() else "?" for character in line))


def _files(bundle: Bundle) -> dict[str, int]:
    """Return the bytes of each file that the checksums list."""
    return {name: (bundle.folder / name).stat().st_size for name in bundle.checksums}


def _confidence(config: ConfidenceConfig | None) -> str:
    if config is None:
        return "not calibrated"
    if config.hedge_threshold is None:
        return f"calibrated; recommended --min-confidence {config.threshold:g}"
    return f'calibrated; "perhaps" below {config.hedge_threshold:g}, "I cannot tell" below {config.threshold:g}'


def bundle_json(bundle: Bundle) -> str:
    """Return the config and files of a bundle as JSON, without the long tables of subwords and of the confidence."""
    config: dict[str, Any] = to_builtins(bundle.config)
    for part, names in (("vocabulary", ["subwords", "pronunciations"]), ("confidence", ["pca"])):
        for name in names if config[part] else ():
            del config[part][name]
    if (units := bundle.config.image_units) is not None:
        config["image_units"] |= {"units": units.units, "bits": units.bits}
    files = _files(bundle)
    listed = [{"name": name, "size": size, "sha256": bundle.checksums[name]} for name, size in files.items()]
    about = {"made_by": bundle.made_by, "folder": str(bundle.folder), "size": sum(files.values())}
    return json.dumps({**config, **about, "files": listed}, indent=1)


def _image_units(config: ImageUnitsConfig | None) -> str:
    if config is None:
        return "none"
    from im2sp.image.units import layout

    return (
        f"{config.tokenizer} ({config.kind}): {layout(config)}, codebooks of {config.codebook_size}; "
        f"{_plural(config.units, 'unit')}, {config.bits:,} bits a photo"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
