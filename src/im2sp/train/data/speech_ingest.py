"""Recordings of a corpus -> speech shards (16 kHz mono) and `problems.jsonl`, shard by shard, resumable.

The folder that comes out holds `<split>-<number>.parquet` as the stages read them, `ingest.json` (what was asked for)
and `problems.jsonl` (one line for each item that was left out or noted). Published units in the place of recordings
become unit tables in the same way (`im2sp.train.data.unit_files`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow.parquet as pq

from im2sp.errors import AudioError, Im2SpError, reason
from im2sp.files import replace_whole
from im2sp.manifest import locked
from im2sp.speech.audio import MAX_SECONDS, SAMPLE_RATE, read_audio
from im2sp.train.data.corpora.items import Corpus, CorpusItem, Problem, Report, consistent, ignore
from im2sp.train.data.speech_shards import SpokenCaption, write_shard

log = logging.getLogger(__name__)

PLAN = "ingest.json"
PROBLEMS = "problems.jsonl"
MAX_SHARD_SAMPLES = 2**29  # 1 GiB of 16-bit samples; a list column of Parquet ends at 2**31


@dataclass(frozen=True)
class IngestOptions:
    """How recordings become shards."""

    shard_size: int = 250  # captions
    shortest: float = 0.1  # seconds; a HuBERT hears nothing in less
    longest: float = 60.0  # seconds
    splits: tuple[str, ...] = ()  # of the corpus; none given means all

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
    """Where what is ingested comes from, and what becomes of it."""

    def read(self, item: CorpusItem) -> Any:
        """What a table keeps of an item, or the Problem why there is nothing."""
        ...

    def write(self, path: Path, rows: Sequence[Any]) -> None:
        """A table, whole."""
        ...

    def seconds(self, path: Path) -> tuple[int, float]:
        """(Rows, seconds of speech) of a table."""
        ...


@dataclass(frozen=True)
class Recordings:
    """The recordings that a corpus names -> speech shards."""

    options: IngestOptions

    def read(self, item: CorpusItem) -> SpokenCaption | Problem:
        """The recording of an item."""
        return read_recording(item, self.options)

    def write(self, path: Path, rows: Sequence[SpokenCaption]) -> None:
        """One shard."""
        write_shard(path, list(rows))

    def seconds(self, path: Path) -> tuple[int, float]:
        """(Rows, seconds) of a shard, from its metadata."""
        about = pq.read_metadata(path)
        column = about.schema.to_arrow_schema().names.index("waveform")
        if not about.num_rows:
            return 0, 0.0
        groups = (about.row_group(number) for number in range(about.num_row_groups))
        samples = sum(group.column(column).num_values for group in groups)  # none is empty, so all values are samples
        return about.num_rows, samples / SAMPLE_RATE


@dataclass(frozen=True)
class Ingested:
    """What lies in the folder now."""

    recordings: int
    seconds: float
    shards: int
    written: int  # shards, by this run
    left_out: Mapping[str, int] = field(default_factory=dict)  # {kind of problem: items}
    noted: Mapping[str, int] = field(default_factory=dict)  # problems of items that are used


def ingest(
    corpus: Corpus,
    out: Path,
    options: IngestOptions,
    description: Mapping[str, str],
    earlier: Sequence[Problem] = (),
    source: Source | None = None,
) -> Ingested:
    """Read every recording of a corpus that is not in `out` yet. Safe to stop and run again.

    The corpus is listed twice: first to find out that its lists are whole, then to read recordings. Memory: the
    recordings of one shard, twice, and what `consistent` keeps.

    Args:
        corpus: any corpus; captions without a recording are problems.
        out: folder for the result, of this corpus alone.
        description: what was asked for (the layout, say); a later run must ask for the same.
        earlier: problems that were found when the corpus was opened.
        source: what is read of each item; its recording unless told otherwise.

    Raises:
        Im2SpError: a list of the corpus cannot be read, `out` is of another corpus, in use or not writable, or not
            one recording could be used.
    """
    source = source or Recordings(options)
    try:
        with locked(out):
            for left_over in out.glob(".*.part"):  # of a run that was killed
                left_over.unlink(missing_ok=True)
            journal = _ProblemJournal(out / PROBLEMS)
            with journal.renewed({path.stem for path in out.glob("*.parquet")}) as report:
                for problem in earlier:
                    report(problem)
                _keep_plan(out / PLAN, {**description, **asdict(options), **_plan(corpus, options, report)})
            written = 0
            for name, items in _shards(corpus, options):
                path = out / f"{name}.parquet"
                if not path.exists():
                    _write(path, items, source, journal)
                    written += 1
            result = _summary(out, written, journal, source)
    except OSError as error:
        raise Im2SpError(f"{out} cannot be written ({reason(error)})") from error
    if not result.recordings:
        raise Im2SpError(f"{out}: not one recording could be used; {PROBLEMS} in it says why")
    return result


def _plan(corpus: Corpus, options: IngestOptions, report: Report) -> dict[str, Any]:
    """How many captions each split has, and a digest of all that decides what is in which shard."""
    counts: Counter[str] = Counter()
    digest = hashlib.sha256()
    first: list[str] = []

    def listen(problem: Problem) -> None:
        if not first:
            first.append(problem.message)
        report(problem)

    for item in _wanted(corpus, options, listen):
        counts[item.split] += 1
        recording = item.recording.name if item.recording else None
        line = [item.caption_id, item.image_id, item.split, item.speaker, item.text, recording]
        digest.update(json.dumps(line).encode("ascii"))
    if not counts:
        which = f" of the splits {', '.join(options.splits)}" if options.splits else ""
        raise Im2SpError(f"the corpus has no captions{which}{f'; the first problem: {first[0]}' if first else ''}")
    return {"captions": dict(sorted(counts.items())), "digest": digest.hexdigest()}


def _wanted(corpus: Corpus, options: IngestOptions, report: Report) -> Iterator[CorpusItem]:
    return (item for item in consistent(corpus, report) if not options.splits or item.split in options.splits)


def _keep_plan(path: Path, plan: dict[str, Any]) -> None:
    """Write the plan, or see that the one of an earlier run is the same."""
    plan = json.loads(json.dumps(plan))  # as it will be read
    try:
        if not path.exists():
            if any(path.parent.glob("*.parquet")):
                raise Im2SpError(f"{path.parent} holds shards of something else: choose a new folder")
            with replace_whole(path) as temporary:
                temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
            return
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Im2SpError(f"{path} cannot be read or written ({reason(error)})") from error
    except ValueError as error:
        raise Im2SpError(f"{path} is damaged: choose a new folder") from error
    if earlier != plan:
        known = earlier if isinstance(earlier, dict) else {}
        changed = [key for key in plan if known.get(key) != plan[key]] or ["more"]
        raise Im2SpError(
            f"{path.parent} was begun with another {changed[0]}: ask for the same again, or choose a new folder"
        )


def _shards(corpus: Corpus, options: IngestOptions) -> Iterator[tuple[str, list[CorpusItem]]]:
    """Named shards of each split, in the order of the corpus."""
    waiting: dict[str, list[CorpusItem]] = {}
    numbers: Counter[str] = Counter()
    for item in _wanted(corpus, options, ignore):
        items = waiting.setdefault(item.split, [])
        items.append(item)
        if len(items) == options.shard_size:
            yield f"{item.split}-{numbers[item.split]:05d}", waiting.pop(item.split)
            numbers[item.split] += 1
    for split, items in waiting.items():
        yield f"{split}-{numbers[split]:05d}", items


class _ProblemJournal:
    """problems.jsonl: what the lists showed, then shard by shard what the recordings showed, before the shard."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.left_out: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()

    @contextmanager
    def renewed(self, done: set[str]) -> Iterator[Report]:
        """Yield a report for problems of the lists; lines of shards that are there are kept, all else is found anew."""
        with replace_whole(self._path) as temporary, temporary.open("wb") as file:
            yield lambda problem: _put(file, self._line(problem, None))
            for line, entry in self._entries():
                if entry["shard"] in done:
                    self._count(str(entry["kind"]), bool(entry["left_out"]))
                    file.write(line)

    def _entries(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Whole lines of an earlier run; a line that was torn belongs to a shard that is not there."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            for line in file:
                entry = _entry(line)
                if entry is not None:
                    yield line, entry

    def add(self, problems: Iterable[Problem], shard: str) -> None:
        """Append, and be sure that it is on the disk: the shard that comes next will not be looked at again."""
        lines = [self._line(problem, shard) for problem in problems]
        with self._path.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())

    def _line(self, problem: Problem, shard: str | None) -> bytes:
        self._count(problem.kind, problem.left_out)
        return json.dumps(asdict(problem) | {"shard": shard}).encode("ascii") + b"\n"

    def _count(self, kind: str, left_out: bool) -> None:
        (self.left_out if left_out else self.noted)[kind] += 1


def _put(file: IO[bytes], line: bytes) -> None:
    file.write(line)


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    whole = isinstance(entry, dict) and {"kind", "left_out", "shard"} <= set(entry)
    return entry if whole else None


def _write(path: Path, items: list[CorpusItem], source: Source, journal: _ProblemJournal) -> None:
    rows: list[Any] = []
    problems: list[Problem] = []
    for item in items:
        read = source.read(item)
        if isinstance(read, Problem):
            problems.append(read)
        else:
            rows.append(read)
    journal.add(problems, path.stem)
    source.write(path, rows)
    log.info("%s: %d recordings, %d left out", path.name, len(rows), len(problems))


def read_recording(item: CorpusItem, options: IngestOptions) -> SpokenCaption | Problem:
    """The recording of an item as a spoken caption (int16 [samples], 16 kHz mono), or why there is none."""
    where = item.caption_id
    if item.recording is None:
        return Problem("no-recording", where, f"{where} has no recording")
    if not os.path.exists(item.recording):
        return Problem("missing", where, f"{item.recording} is missing")
    try:
        waveform = read_audio(item.recording)
    except AudioError as error:
        return Problem("unreadable", where, str(error))
    seconds = len(waveform) / SAMPLE_RATE
    if seconds < options.shortest:
        return Problem("too-short", where, f"{item.recording} lasts {seconds:.3f} s: less than {options.shortest:g} s")
    if seconds > options.longest:
        return Problem("too-long", where, f"{item.recording} lasts {seconds:.1f} s: more than {options.longest:g} s")
    return SpokenCaption.recorded(item.caption_id, item.image_id, item.split, item.speaker, item.text or "", waveform)


def _summary(out: Path, written: int, journal: _ProblemJournal, source: Source) -> Ingested:
    found = [source.seconds(path) for path in sorted(out.glob("*.parquet"))]
    recordings, seconds = sum(rows for rows, _ in found), sum(each for _, each in found)
    return Ingested(recordings, seconds, len(found), written, journal.left_out, journal.noted)
