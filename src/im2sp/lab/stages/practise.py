"""Stage `practise`: a voice learns on with regular sentences, as it is going to say them.

A table of pronunciations puts units side by side that no recording has in that order, and there are only so many of its
entries: a vocoder can learn how each of them sounds. What it hears is a recording of the same words; what it sees is
the regular sentence, laid over the recording frame by frame. Its duration predictor learns from regular sentences, too,
where a word is always as long as in the recording that it was taken from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset

from im2sp.arrays import FloatArray, IntArray
from im2sp.lab.data.clips import Clips, StoredClips, store_clips
from im2sp.lab.data.unit_table import UnitRow, description_of, iterate_unit_tables, unit_table_files, write_unit_table
from im2sp.lab.models.saving import CONFIG
from im2sp.lab.models.speech_encoder import Clusters
from im2sp.lab.models.unit_vocoder import load_vocoder
from im2sp.lab.training.processes import Processes, peers_answer
from im2sp.lab.training.vocoder import VocoderTraining, train_vocoder
from im2sp.speech.units import without_repeats

log = logging.getLogger(__name__)


@peers_answer()
def practise(
    voice: Path,
    clips: StoredClips,
    speech: Path,
    heard: Path,
    regular: Path,
    clusters: Clusters,
    parts: tuple[str, ...],
    options: VocoderTraining,
    out: Path,
) -> None:
    """Let a voice learn on from its clips and from the same in regular units; it is left in `out`.

    Args:
        voice: folder of the vocoder and duration predictor that learn on.
        clips: what they have learned from.
        speech, heard, regular: folders of the recordings, of their units, and of their regular units.
        parts: what the names of the shards begin with.
        options: no step leaves the vocoder as it is.
    """
    if (out / CONFIG).is_file():
        return
    learned: Clips = clips
    if options.steps:
        with Processes().main_first():
            lay_over_recordings(heard, regular, clusters, out / "units")
            laid_over = store_clips(speech, out / "units", "train", out / "clips", parts)
        learned = ConcatDataset([clips, laid_over])
    sentences = [row.speech_units for tables in (heard, regular) for row in iterate_unit_tables(tables, "train")]
    train_vocoder(learned, load_vocoder(voice), options, out, sentences)


def lay_over_recordings(heard: Path, regular: Path, clusters: Clusters, out: Path) -> None:
    """Write `out/<table>.parquet` for every table of `heard`: its train sentences in regular units, frame by frame.

    Sentences that nobody spoke, and those with more regular units than frames, are left out.
    """
    tables = unit_table_files(heard)
    if all((out / path.name).is_file() for path in tables):
        return
    apart, same, frames, left_out = distances(clusters), 0, 0, 0
    wanted = {
        row.caption_id: without_repeats(row.speech_units)
        for path in tables
        for row in iterate_unit_tables(regular, "train", path.stem)
    }

    def laid_over(rows: Iterable[UnitRow]) -> Iterator[UnitRow]:
        nonlocal same, frames, left_out
        for row in rows:
            if (units := wanted.get(row.caption_id)) is None or len(units) > len(row.speech_units):
                left_out += 1
                continue
            found = lay_over(row.speech_units, units, apart)
            same, frames = same + int((found == row.speech_units).sum()), frames + len(found)
            yield replace(row, speech_units=found)

    for path in tables:
        rows = laid_over(iterate_unit_tables(heard, "train", path.stem))
        write_unit_table(out / path.name, rows, description_of(path) | {"laid_over": "regular units"})
    log.info("%.0f %% of the frames keep their unit; %d sentences are left out", 100 * same / max(1, frames), left_out)


def distances(clusters: Clusters) -> FloatArray:
    """How unlike each two units are: float32 [units, units], from the centres, whose features are scaled twice here."""
    squares = (clusters.weight**2).sum(1)
    apart = squares[:, None] + squares - 2 * clusters.weight @ clusters.weight.T
    found: FloatArray = np.sqrt(np.maximum(apart, 0)).astype(np.float32)
    np.fill_diagonal(found, 0)
    return found


def lay_over(recorded: IntArray, units: IntArray, apart: FloatArray) -> npt.NDArray[np.uint16]:
    """Which of the units each frame of a recording is likest to, where they follow each other: uint16 [frames].

    Each unit gets a frame or more (dynamic time warping, where only the units may be stretched).

    Args:
        recorded: unit of each frame [frames].
        units: what is said, without repeats [at most as many as frames].
        apart: float32 [kinds of units, kinds of units].
    """
    costs = apart[np.ix_(recorded, units)]
    total = np.full(len(units), np.inf, np.float32)
    total[0] = costs[0, 0]
    moved = np.zeros(costs.shape, bool)
    for frame in range(1, len(recorded)):
        before = np.concatenate([[np.float32(np.inf)], total[:-1]])
        moved[frame] = before < total
        total = np.where(moved[frame], before, total) + costs[frame]
    place, places = len(units) - 1, np.zeros(len(recorded), np.int64)
    for frame in range(len(recorded) - 1, -1, -1):
        places[frame] = place
        place -= int(moved[frame, place])
    return np.asarray(units, np.uint16)[places]
