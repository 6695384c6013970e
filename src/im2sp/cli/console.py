"""What the command line shows: the progress of a batch, the line for one photo, the table about a bundle."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins
from msgspec.structs import asdict

from im2sp.speech.audio import UNIT_RATE

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress

    from im2sp.batch import Outcome
    from im2sp.bundle import BundleDescription, ImageUnitsConfig
    from im2sp.collections.shards import ShardResult
    from im2sp.manifest import Record


# Rich is imported where something is drawn, so that the speech about one photo need not wait for it.


class Tally:
    """Counts outcomes, shows them as a bar (on a terminal, for more than one photo), names failures on stderr."""

    def __init__(self, progress: Progress | None, total: int | None, doing: str, done: str) -> None:
        self.done = self.skipped = self.failed = 0
        self._progress = progress
        self._total = total
        self._word = done
        if progress:
            progress.add_task(doing, total=total)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome. What was skipped leaves the total, or it would spoil the rate and the time left."""
        if outcome.skipped:
            self.skipped += 1
        elif outcome.error is None:
            self.done += 1
        else:
            self.failed += 1
            if self._progress:
                self._progress.console.print(outcome.error, markup=False, highlight=False, soft_wrap=True)
            else:
                print(outcome.error, file=sys.stderr)
        self._show()

    def add_shard(self, result: ShardResult) -> None:
        """Count the photos of a shard. Why some failed stands in its table, where there is room for millions."""
        well = result.photos - result.failed
        self.failed += result.failed
        if result.skipped:
            self.skipped += well
        else:
            self.done += well
        self._show()

    def _show(self) -> None:
        if self._progress:
            total = None if self._total is None else self._total - self.skipped
            self._progress.update(self._progress.task_ids[0], completed=self.done + self.failed, total=total)

    def __str__(self) -> str:
        parts = [f"{_count(self.done, 'photo')} {self._word}"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped ({self._word} before)")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)


@contextmanager
def tally(total: int | None, doing: str = "speaking", done: str = "spoken") -> Iterator[Tally]:
    """A Tally whose bar is gone afterwards. `total` is None where it is not known."""
    if (total is not None and total < 2) or not _on_terminal():
        yield Tally(None, total, doing, done)
        return
    from im2sp.cli.progress import progress_bar

    with progress_bar() as progress:
        yield Tally(progress, total, doing, done)


def _on_terminal() -> bool:
    return sys.stderr.isatty()


def result_line(record: Record, out: Path | None) -> str:
    """What a single photo is answered with: its wav in `out`, or the photo itself when it was only played."""
    spoken = sum(record.durations) / UNIT_RATE
    sure = "" if record.confidence is None else f"confidence {record.confidence:.2f}, "
    return (
        f"{out / record.wav if out else record.image}: {'not sure what it shows, ' if record.withheld else ''}"
        f"{spoken:.1f} s of speech, {_count(len(record.units), 'unit')}, "
        f"score {record.score:.2f}, {sure}made in {record.seconds:.2f} s"
    )


def show_bundle(description: BundleDescription) -> None:
    """Print what a bundle is, as a table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    config = description.config
    table = Table(title=f"{config.name} {config.version}", show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    facts = {
        "description": config.description,
        "license": config.license,
        "language": config.language,
        "created": config.created,
        "folder": str(description.folder),
        "size": _megabytes(description.size),
        "picture": f"{config.image.width} x {config.image.height} pixels, {config.image.image_tokens} image tokens",
        "image units": _image_units(config.image_units),
        "speech": f"{config.vocabulary.units} units, {config.decoder.vocabulary_size} tokens, "
        f"{config.vocoder.sample_rate} Hz",
        "speech to units": "yes" if config.speech_encoder else "no",
        "decoding": ", ".join(f"{name} {value}" for name, value in asdict(config.decoding).items()),
        "confidence": f"calibrated; recommended --min-confidence {config.confidence.threshold:g}"
        if config.confidence
        else "not calibrated",
    }
    sections: dict[str, Mapping[str, object]] = {
        "what it is": facts,
        "what it was trained on": config.training,
        "measured quality": config.quality,
        "parameters": {graph: f"{number:,}" for graph, number in config.parameters.items()},
        "files, checksums verified": {
            file.name: f"{_megabytes(file.size)} {file.sha256}" for file in description.files
        },
    }
    for title, rows in sections.items():
        table.add_row(Text(title, style="bold"))
        for name, value in rows.items():
            table.add_row(Text(f"  {name}"), Text(str(value)))
        table.add_section()
    Console().print(table)


def bundle_json(description: BundleDescription) -> str:
    """The same as JSON; the list of subwords and the tables of the confidence stay in config.json."""
    config: dict[str, Any] = to_builtins(description.config)
    for part, name in (("vocabulary", "subwords"), ("confidence", "familiar")):
        if config[part]:
            del config[part][name]
    if description.config.image_units is not None:
        units = description.config.image_units
        config["image_units"] |= {"units": units.units, "bits": units.bits}
    files = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in description.files]
    return json.dumps({**config, "folder": str(description.folder), "size": description.size, "files": files}, indent=1)


def _image_units(config: ImageUnitsConfig | None) -> str:
    if config is None:
        return "none"
    rows, columns = config.grid
    return (
        f"{config.tokenizer} ({config.kind}): {rows} x {columns} cells, {_count(config.codes, 'code')} each of "
        f"{config.codebook_size}; {_count(config.units, 'unit')}, {config.bits:,} bits a photo"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
