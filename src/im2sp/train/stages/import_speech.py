"""In place of the stage `speak`: recordings of people and their photos -> spoken captions. No text is needed.

What it leaves is what `speak` leaves: Parquet shards of both splits, and a data folder in Flickr8k's layout. A
recording that cannot be used is left out and said; its sentence stays in `<shard>.problems.txt`, and the shard is made
again by the next run, so that mended recordings get in.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from im2sp.errors import AudioError, Im2SpError
from im2sp.files import replace_whole, sha256_of
from im2sp.speech.audio import SAMPLE_RATE, read_audio
from im2sp.train.data.flickr8k import CAPTION_FILE, photo_path, read_split, split_file
from im2sp.train.data.recordings import Recording, read_recordings
from im2sp.train.data.speech_shards import SpokenCaption, write_shard
from im2sp.train.stages.speak import speaking_order

log = logging.getLogger(__name__)

RECORD = "import.json"  # in the folder of shards: what they were made from
SPLITS = ("train", "dev")
SILENCE = 1e-3  # a recording that is nowhere louder holds no speech


@dataclass(frozen=True)
class ImportOptions:
    """What counts as a usable recording, and how the photos are divided."""

    speaker: str = "own"
    dev_percent: int = 10  # photos held out, where the data folder does not say which
    shortest: float = 0.5  # seconds
    longest: float = 30.0  # seconds; training takes memory in proportion to the longest clip
    shard_size: int = 250
    seed: int = 0


@dataclass(frozen=True)
class Imported:
    """What is in the shards after a run."""

    clips: int
    problems: tuple[str, ...]  # a sentence for each recording that is left out


def is_imported(speech: Path) -> bool:
    """Whether spoken captions in this folder came from recordings."""
    return (speech / RECORD).is_file()


def import_speech(table: Path, recordings: Path, data: Path, out: Path, options: ImportOptions) -> Imported:
    """Recordings named by a table -> shards in `out`; split files and, where there are texts, captions in `data`.

    Safe to stop and run again.

    Args:
        table: see `read_recordings`.
        recordings: folder that the paths in the table start from.
        data: holds the photos, `Flicker8k_Dataset/<image_id>.jpg`; its own split files are kept if there are any.

    Raises:
        Im2SpError: the table is wrong, a photo is missing or in no split, or `out` was made from something else.
    """
    rows = read_recordings(table)
    _check_photos(rows, data)
    split_of = _splits(rows, data, options)
    _check_folder(out, table, options)
    rows = [replace(row, split=split_of[row.image_id]) for row in rows]
    if rows[0].text:
        lines = (f"{row.image_id}.jpg#{row.index}\t{row.text}" for row in rows)
        _write_once(data / CAPTION_FILE, "\n".join(lines) + "\n")
    clips, problems = 0, list[str]()
    for name, shard in speaking_order(rows, options.seed, options.shard_size):
        found, left_out = _import_shard(out, name, shard, recordings, options)
        clips += found
        problems += left_out
        log.info("%s: %d of %d recordings", name, found, len(shard))
    return Imported(clips, tuple(problems))


def _import_shard(
    out: Path, name: str, rows: list[Recording], recordings: Path, options: ImportOptions
) -> tuple[int, list[str]]:
    """(clips in the shard, sentences about those left out); nothing is read where a shard without problems is there."""
    path, complaints = out / f"{name}.parquet", out / f"{name}.problems.txt"
    if path.exists() and not complaints.exists():
        return pq.read_metadata(path).num_rows, []
    clips, problems = [], []
    for row in rows:
        try:
            clips.append(_clip(row, recordings, options))
        except AudioError as error:
            problems.append(str(error))
            log.warning("left out: %s", error)
    if problems:  # before the shard, so that a shard without complaints has none to make
        _write_text(complaints, "\n".join(problems) + "\n")
    if clips:
        write_shard(path, clips)
    if not problems:
        complaints.unlink(missing_ok=True)
    return len(clips), problems


def _clip(row: Recording, recordings: Path, options: ImportOptions) -> SpokenCaption:
    path = recordings / row.wav
    waveform = read_audio(path)
    seconds = len(waveform) / SAMPLE_RATE
    if not options.shortest <= seconds <= options.longest:
        raise AudioError(f"{path}: lasts {seconds:.1f} s; from {options.shortest:g} to {options.longest:g} s are used")
    if np.abs(waveform).max() < SILENCE:
        raise AudioError(f"{path}: is silent")
    return SpokenCaption.recorded(row.caption_id, row.image_id, row.split, options.speaker, row.text, waveform)


def _check_photos(rows: list[Recording], data: Path) -> None:
    wanted = sorted({row.image_id for row in rows})
    missing = [image_id for image_id in wanted if not photo_path(data, image_id).is_file()]
    if missing:
        raise Im2SpError(
            f"{len(missing)} of {len(wanted)} photos are missing, the first is {photo_path(data, missing[0])}: "
            "put them there or take their lines out of the table"
        )


def _check_folder(out: Path, table: Path, options: ImportOptions) -> None:
    """Note what the shards of a folder are made from, and refuse to mix."""
    made_from = {"table": table.name, "sha256": sha256_of(table), **asdict(options)}
    record = out / RECORD
    text = json.dumps(made_from, indent=1) + "\n"
    if record.is_file() and record.read_text(encoding="utf-8") == text:
        return
    if any(out.glob("*.parquet")):
        raise Im2SpError(
            f"{out} holds spoken captions of another origin, table or options: delete it or give another --runs"
        )
    _write_text(record, text)


def _splits(rows: list[Recording], data: Path, options: ImportOptions) -> Mapping[str, str]:
    """Split of every photo: by the files in `data`, which are written first where there are none."""
    wanted = sorted({row.image_id for row in rows})
    if not all(split_file(data, split).is_file() for split in SPLITS):
        _draw_splits(wanted, data, options)
    split_of = {image_id: split for split in SPLITS for image_id in read_split(data, split)}
    if strangers := [image_id for image_id in wanted if image_id not in split_of]:
        raise Im2SpError(
            f"{len(strangers)} photos are in neither split, the first is {strangers[0]!r}: add them to "
            f"{' or '.join(split_file(data, split).name for split in SPLITS)}"
        )
    for split in SPLITS:
        if split not in map(split_of.get, wanted):
            raise Im2SpError(f"no recording belongs to a photo of {split_file(data, split)}: both splits need some")
    return split_of


def _draw_splits(wanted: list[str], data: Path, options: ImportOptions) -> None:
    if len(wanted) < len(SPLITS):
        raise Im2SpError("there is one photo only: training needs one more, to be held out")
    drawn = random.Random(options.seed).sample(wanted, len(wanted))
    held_out = min(len(wanted) - 1, max(1, round(len(wanted) * options.dev_percent / 100)))
    for split, part in (("dev", drawn[:held_out]), ("train", drawn[held_out:])):
        _write_once(split_file(data, split), "".join(f"{image_id}.jpg\n" for image_id in sorted(part)))


def _write_once(path: Path, text: str) -> None:
    """Write a file that other stages read; one that says something else is somebody's and stays."""
    if not path.exists():
        _write_text(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise Im2SpError(f"{path} is there already and says something else: move it away, or complete its set of files")


def _write_text(path: Path, text: str) -> None:
    with replace_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
