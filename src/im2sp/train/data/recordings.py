"""Importer of recordings: a corpus -> Parquet shards of spoken captions (16 kHz mono), resumable shard by shard.

The folder gets `<split>-<number>.parquet`, `plan.json` (the options) and `problems/`, one file of JSON lines for the
lists of the corpus and one for each shard, of what was left out or noted. Captions may be spoken by a synthetic voice
in place of recordings, and published units may take their place, too (`im2sp.train.convert.unit_files`).
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from im2sp.errors import AudioError, Im2SpError
from im2sp.files import atomic_write, write_json
from im2sp.speech.audio import SAMPLE_RATE, read_audio, to_pcm16
from im2sp.train.data.corpora import CorpusOptions, read_corpus
from im2sp.train.data.corpora.items import CorpusItem, Problem
from im2sp.train.data.speech_shards import SpokenCaption, write_shard
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig, clean_text

log = logging.getLogger(__name__)

PLAN, PROBLEMS = "plan.json", "problems"
SHARD_SIZE = 250  # captions; as long as LONGEST they take a gigabyte
SHORTEST, LONGEST = 0.1, 120.0  # seconds of a recording; HuBERT has no frame in less
SILENCE = 1e-3  # a recording that is nowhere louder holds no speech
OWN_SPEAKER = "own"  # name of a speaker whom the corpus does not name

Row = TypeVar("Row")


@dataclass(frozen=True)
class RecordingOptions(CorpusOptions):
    """A corpus and what is taken of it."""

    spoken_by: Literal["people", "piper"] = "people"  # recordings of the corpus, or a synthetic voice from its texts
    splits_taken: tuple[str, ...] = ("dev", "train")
    longest: float = 60.0  # seconds

    def __post_init__(self) -> None:
        if not SHORTEST < self.longest <= LONGEST:
            raise Im2SpError(f"`longest` is {self.longest}: give seconds from {SHORTEST} to {LONGEST}")


def import_recordings(data: Path, options: RecordingOptions, voice: SynthesisConfig, out: Path) -> None:
    """Import the recordings of a corpus, or let a synthetic voice speak its captions.

    Raises Im2SpError as `import_corpus`.
    """
    if options.spoken_by == "piper":
        read = partial(_synthesize, PiperSynthesizer(voice), voice.speaker)
    else:
        read = partial(_read_recording, options)
    import_corpus(data, options, read, write_shard, out)


def _read_recording(options: RecordingOptions, item: CorpusItem) -> SpokenCaption | Problem:
    """Read the recording of a caption."""
    where, path = item.caption_id, item.recording
    if path is None:
        return Problem("no-recording", where, f"{where} has no recording")
    if not path.exists():
        return Problem("missing", where, f"{path} is missing")
    try:
        waveform = read_audio(path)
    except AudioError as error:
        return Problem("unreadable", where, str(error))
    if problem := wrong_length(where, path, len(waveform) / SAMPLE_RATE, options):
        return problem
    if np.abs(waveform).max() < SILENCE:
        return Problem("silent", where, f"{path} is silent")
    speaker = item.speaker or OWN_SPEAKER
    return SpokenCaption(where, item.image_id, item.split, speaker, item.text or "", to_pcm16(waveform))


def _synthesize(voice: PiperSynthesizer, speaker: str, item: CorpusItem) -> SpokenCaption | Problem:
    """Speak the text of a caption, with the phones that were said."""
    text = clean_text(item.text or "")
    if not text:
        return Problem("no-text", item.caption_id, f"{item.caption_id} has no text to speak")
    said = voice.synthesize(text)
    names = item.caption_id, item.image_id, item.split, speaker, item.text or ""
    return SpokenCaption(*names, said.waveform, said.phones, said.phone_samples)


def import_corpus(
    data: Path,
    options: RecordingOptions,
    read: Callable[[CorpusItem], Row | Problem],
    write: Callable[[Path, list[Row]], None],
    out: Path,
) -> None:
    """Write every shard of a corpus that is not in `out` yet. Memory: the list of captions, and a shard, twice.

    Args:
        read: returns the row of a caption, or why there is none.
        write: writes the rows of a shard.

    Raises:
        Im2SpError: a list of the corpus cannot be read, `out` was begun with other options, or nothing can be used.
    """
    problems: list[Problem] = []
    items: dict[str, list[CorpusItem]] = {split: [] for split in options.splits_taken}
    for item in read_corpus(data, options, problems.append):
        if item.split in items:
            items[item.split].append(item)
    if not any(items.values()):
        first = f"; the first problem: {problems[0].message}" if problems else ""
        raise Im2SpError(f"the corpus has no captions of {' or '.join(options.splits_taken)}{first}")
    plan = json.loads(json.dumps(asdict(options)))
    if (out / PLAN).is_file() and json.loads((out / PLAN).read_text()) != plan:
        raise Im2SpError(f"{out} was begun with another corpus or other options: remove it, or give other `runs`")
    write_json(out / PLAN, plan)
    _write_problems(out / PROBLEMS / "lists.jsonl", problems)
    for split, captions in items.items():
        for number, start in enumerate(range(0, len(captions), SHARD_SIZE)):
            path = out / f"{split}-{number:05d}.parquet"
            if not path.exists():
                found = [read(item) for item in captions[start : start + SHARD_SIZE]]
                _write_problems(
                    out / PROBLEMS / f"{path.stem}.jsonl", [row for row in found if isinstance(row, Problem)]
                )
                if rows := [row for row in found if not isinstance(row, Problem)]:
                    write(path, rows)
                log.info("%s: %d captions, %d left out", path.name, len(rows), len(found) - len(rows))
    _summarise(out)


def _summarise(out: Path) -> None:
    """Log how many problems of each kind there were. Raises Im2SpError where nothing could be used."""
    lines = (line for path in (out / PROBLEMS).glob("*.jsonl") for line in path.read_text().splitlines())
    found = Counter(json.loads(line)["kind"] for line in lines)
    if found:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        log.warning("%s: problems: %s (see %s)", out, kinds, out / PROBLEMS)
    if not any(out.glob("*.parquet")):
        raise Im2SpError(f"{out}: not one caption could be used; {PROBLEMS} in it says why")


def wrong_length(where: str, path: Path, seconds: float, options: RecordingOptions) -> Problem | None:
    """The problem of a recording that is too short or too long."""
    if seconds < SHORTEST:
        return Problem("too-short", where, f"{path} lasts {seconds:.3f} s: less than {SHORTEST:g} s")
    if seconds > options.longest:
        return Problem("too-long", where, f"{path} lasts {seconds:.1f} s: more than {options.longest:g} s")
    return None


def _write_problems(path: Path, problems: Iterable[Problem]) -> None:
    if lines := [json.dumps(asdict(problem)) + "\n" for problem in problems]:
        with atomic_write(path) as temporary:
            temporary.write_text("".join(lines))
