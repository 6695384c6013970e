"""Importer of recordings: a corpus -> Parquet shards of spoken captions (16 kHz mono), resumable shard by shard.

The folder gets `<split>-<number>.parquet`, `plan.json` (what was asked for) and `problems/`, one file of JSON lines for
the lists of the corpus and one for each shard, of what was left out or noted. Captions may be spoken by a synthetic
voice in place of recordings, and published units may take their place, too (`im2sp.train.convert.unit_files`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from im2sp.errors import AudioError, Im2SpError
from im2sp.files import atomic_write
from im2sp.speech.audio import MAX_SECONDS, SAMPLE_RATE, read_audio
from im2sp.train.data.corpora import CorpusOptions, open_corpus
from im2sp.train.data.corpora.items import Corpus, CorpusItem, Problem, Report, consistent, ignore
from im2sp.train.data.speech_shards import SpokenCaption, write_shard
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig, clean_text

log = logging.getLogger(__name__)

PLAN, PROBLEMS = "plan.json", "problems"
MAX_SHARD_SAMPLES = 2**29  # 1 GiB of 16-bit samples; a list column of Parquet ends at 2**31
SILENCE = 1e-3  # a recording that is nowhere louder holds no speech


@dataclass(frozen=True)
class RecordingOptions(CorpusOptions):
    """A corpus and what is taken of it."""

    spoken_by: Literal["people", "piper"] = "people"  # recordings of the corpus, or a synthetic voice from its texts
    speaker: str = "own"  # name of a speaker whom the corpus does not name
    splits_taken: tuple[str, ...] = ("dev", "train")
    captions: int = 0  # of each split; 0 for all
    shard_size: int = 250  # captions
    shortest: float = 0.1  # seconds; HuBERT has no frame in less
    longest: float = 60.0  # seconds

    def __post_init__(self) -> None:
        if self.shard_size < 1 or not 0 < self.shortest < self.longest <= MAX_SECONDS:
            raise Im2SpError(
                f"a shard has at least one caption, and a recording between 0 and {MAX_SECONDS} seconds: "
                f"give other limits than {self.shard_size}, {self.shortest} and {self.longest}"
            )
        if self.shard_size * self.longest * SAMPLE_RATE > MAX_SHARD_SAMPLES:
            raise Im2SpError(
                f"{self.shard_size} captions of {self.longest:g} s could take more than a gigabyte: "
                "make shards smaller or recordings shorter"
            )


class Source(Protocol):
    """What is stored of each caption."""

    def read(self, item: CorpusItem) -> Any:
        """Return the row of a caption, or the Problem why there is none."""
        ...

    def write(self, path: Path, rows: Sequence[Any]) -> None:
        """Write one shard."""
        ...


@dataclass(frozen=True)
class Recordings:
    """Recordings of people."""

    options: RecordingOptions

    def read(self, item: CorpusItem) -> SpokenCaption | Problem:
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
        if problem := wrong_length(where, path, len(waveform) / SAMPLE_RATE, self.options):
            return problem
        if np.abs(waveform).max() < SILENCE:
            return Problem("silent", where, f"{path} is silent")
        speaker = item.speaker or self.options.speaker
        return SpokenCaption.recorded(where, item.image_id, item.split, speaker, item.text or "", waveform)

    def write(self, path: Path, rows: Sequence[SpokenCaption]) -> None:
        """Write one shard."""
        write_shard(path, list(rows))


class SyntheticVoice:
    """Captions spoken by Piper, with the phones that it said."""

    def __init__(self, config: SynthesisConfig) -> None:
        self._config = config
        self._voice: PiperSynthesizer | None = None

    def read(self, item: CorpusItem) -> SpokenCaption | Problem:
        """Speak the text of a caption."""
        text = clean_text(item.text or "")
        if not text:
            return Problem("no-text", item.caption_id, f"{item.caption_id} has no text to speak")
        self._voice = self._voice or PiperSynthesizer(self._config)
        spoken = self._voice.synthesize(text)
        return SpokenCaption(
            item.caption_id,
            item.image_id,
            item.split,
            self._config.speaker,
            item.text or "",
            spoken.waveform,
            spoken.phones,
            spoken.phone_samples,
        )

    def write(self, path: Path, rows: Sequence[SpokenCaption]) -> None:
        """Write one shard."""
        write_shard(path, list(rows))


def import_recordings(data: Path, options: RecordingOptions, voice: SynthesisConfig, out: Path) -> None:
    """Import the recordings of a corpus, or let a synthetic voice speak its captions.

    Raises:
        Im2SpError: as `import_corpus`.
    """
    source: Source = SyntheticVoice(voice) if options.spoken_by == "piper" else Recordings(options)
    import_corpus(data, options, source, out)


def import_corpus(data: Path, options: RecordingOptions, source: Source, out: Path) -> None:
    """Write every shard of a corpus that is not in `out` yet.

    The corpus is listed twice: first to see that its lists are whole, then to read recordings. Memory: the rows of one
    shard, twice, and what `consistent` keeps.

    Raises:
        Im2SpError: a list of the corpus cannot be read, `out` was begun with something else, or nothing can be used.
    """
    problems: list[Problem] = []
    corpus = open_corpus(data, options, problems.append)
    counts, digest = _survey(_wanted(corpus, options, problems.append))
    if not counts:
        first = f"; the first problem: {problems[0].message}" if problems else ""
        raise Im2SpError(f"the corpus has no captions of {' or '.join(options.splits_taken)}{first}")
    _check_plan(out, {"captions": counts, "digest": digest, "options": asdict(options)})
    _write_problems(out / PROBLEMS / "lists.jsonl", problems)
    for name, items in _shards(_wanted(corpus, options, ignore), options.shard_size):
        path = out / f"{name}.parquet"
        if not path.exists():
            _write_shard(path, items, source)
    found: Counter[str] = Counter()
    for path in (out / PROBLEMS).glob("*.jsonl"):
        found.update(json.loads(line)["kind"] for line in path.read_text().splitlines())
    if found:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        log.warning("%s: problems: %s (see %s)", out, kinds, out / PROBLEMS)
    if not any(out.glob("*.parquet")):
        raise Im2SpError(f"{out}: not one caption could be used; {PROBLEMS} in it says why")


def wrong_length(where: str, path: Path, seconds: float, options: RecordingOptions) -> Problem | None:
    """The problem of a recording that is too short or too long."""
    if seconds < options.shortest:
        return Problem("too-short", where, f"{path} lasts {seconds:.3f} s: less than {options.shortest:g} s")
    if seconds > options.longest:
        return Problem("too-long", where, f"{path} lasts {seconds:.1f} s: more than {options.longest:g} s")
    return None


def _wanted(corpus: Corpus, options: RecordingOptions, report: Report) -> Iterator[CorpusItem]:
    taken: Counter[str] = Counter()
    for item in consistent(corpus, report):
        if item.split in options.splits_taken and not 0 < options.captions <= taken[item.split]:
            taken[item.split] += 1
            yield item


def _survey(items: Iterable[CorpusItem]) -> tuple[dict[str, int], str]:
    """(captions of each split, digest of all that decides what is in which shard)."""
    counts: Counter[str] = Counter()
    digest = hashlib.sha256()
    for item in items:
        counts[item.split] += 1
        recording = item.recording.name if item.recording else None
        line = [item.caption_id, item.image_id, item.split, item.speaker, item.text, recording]
        digest.update(json.dumps(line).encode("ascii"))
    return dict(sorted(counts.items())), digest.hexdigest()


def _check_plan(out: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan, or check that an earlier run had the same."""
    path, text = out / PLAN, json.dumps(plan, indent=1) + "\n"
    if path.is_file():
        if path.read_text() != text:
            raise Im2SpError(f"{out} was begun with another corpus or other options: remove it, or give other `runs`")
        return
    if any(out.glob("*.parquet")):
        raise Im2SpError(f"{out} holds shards of something else: remove it, or give other `runs`")
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def _shards(items: Iterable[CorpusItem], size: int) -> Iterator[tuple[str, list[CorpusItem]]]:
    """Named shards of each split, in the order of the corpus."""
    waiting: dict[str, list[CorpusItem]] = {}
    numbers: Counter[str] = Counter()
    for item in items:
        shard = waiting.setdefault(item.split, [])
        shard.append(item)
        if len(shard) == size:
            yield f"{item.split}-{numbers[item.split]:05d}", waiting.pop(item.split)
            numbers[item.split] += 1
    for split, shard in waiting.items():
        yield f"{split}-{numbers[split]:05d}", shard


def _write_shard(path: Path, items: Sequence[CorpusItem], source: Source) -> None:
    read = [source.read(item) for item in items]
    problems = [row for row in read if isinstance(row, Problem)]
    rows = [row for row in read if not isinstance(row, Problem)]
    _write_problems(path.parent / PROBLEMS / f"{path.stem}.jsonl", problems)
    if rows:
        source.write(path, rows)
    log.info("%s: %d captions, %d left out", path.name, len(rows), len(problems))


def _write_problems(path: Path, problems: Iterable[Problem]) -> None:
    if lines := [json.dumps(asdict(problem)) + "\n" for problem in problems]:
        with atomic_write(path) as temporary:
            temporary.write_text("".join(lines))
