"""Stage `pronounce`: spoken captions -> the same and others in regular units, each word as the voice mostly says it.

What the translator learns then is a function of the words, and sentences that nobody spoke cost nothing. See
`lab.data.pronunciations` for why, and docs/results.md for what it is worth.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from im2sp.errors import Im2SpError
from im2sp.speech.audio import HOP, SAMPLE_RATE
from im2sp.train.data.flickr8k import Caption, clean_text
from im2sp.train.data.pronunciations import Pronunciations, RecordedWays, SpokenWord, phones_of_words, spoken_words
from im2sp.train.data.speech_shards import read_phones
from im2sp.train.data.unit_table import (
    UnitRow,
    description_of,
    iterate_unit_tables,
    read_unit_table,
    unit_table_files,
    write_unit_table,
)
from im2sp.train.stages.mend import Mending, Sentence

log = logging.getLogger(__name__)

HOW = ("minimum", "heard", "times", "ways", "missed", "seed")  # options that the tables depend on and tell
TABLE_ROWS = 5000
TABLE = "pronunciations.table"  # how each word is said; it is no table of sentences, so it is not called .parquet
UNSPOKEN = "distilled-unspoken"  # unit tables of sentences that were put together without being spoken


@dataclass(frozen=True)
class PronunciationOptions(Mending):
    """Options of the stage; with `heard`, entries of the table that are not understood are changed."""

    minimum: int = 3  # recordings of a word between two neighbours that decide how it is said there
    spoken: int | None = None  # of the text captioner's sentences, so many are spoken, in their order; None for all
    seed: int = 0


def pronounce(
    speech: Path,
    units: Path,
    unspoken: Sequence[Caption],
    phones_of: Callable[[str], list[str]],
    mended: Callable[[Pronunciations, RecordedWays, Sequence[Sentence]], object],
    options: PronunciationOptions,
    out: Path,
) -> None:
    """Write `out/<table>.parquet` for every table of `units`, and for the sentences that were not spoken.

    The table of pronunciations itself is left in `out/pronunciations.table`.

    A sentence with a word that no recording has is left out. Goes on where it stopped.

    Args:
        unspoken: what else is to be said.
        phones_of: a text -> the phones that the voice says it with.
        mended: changes entries of the table, which can say these sentences, that are not understood (`mend`).

    Raises:
        Im2SpError: the recordings do not say when which phone was said, as those of people do not.
    """
    tables = unit_table_files(units)
    parts = [unspoken[start : start + TABLE_ROWS] for start in range(0, len(unspoken), TABLE_ROWS)]
    names = [f"{UNSPOKEN}-{number:04d}.parquet" for number in range(len(parts))]
    if all((out / name).is_file() for name in (*(path.name for path in tables), *names)):
        return
    how = {f"pronounced_{name}": getattr(options, name) for name in HOW}
    described = description_of(tables[0]) | how  # tables of other options are told apart, and not mixed
    recordings, words = read_recordings(speech, units)
    recorded = RecordedWays.of((said for _, said in recordings), options.minimum, options.seed)
    table = recorded.usual()
    mended(table, recorded, [Sentence(text, tuple(word.phones for word in said)) for text, said in recordings])
    table.save(out / TABLE)
    left_out = 0

    def said(rows: Iterable[UnitRow], words_of_row: Callable[[UnitRow], list[str]]) -> Iterator[UnitRow]:
        nonlocal left_out
        for row in rows:
            frames = table.say(words_of_row(row))
            if frames is None:
                left_out += 1
            else:
                yield replace(row, speech_units=frames, duration_s=len(frames) * HOP / SAMPLE_RATE)

    for path in tables:
        if not (out / path.name).is_file():
            rows = said(read_unit_table(path), lambda row: words[row.caption_id])
            write_unit_table(out / path.name, rows, described)
    voice = next(read_unit_table(tables[0])).speaker
    nothing = np.zeros(0, np.uint16)
    for name, some in zip(names, parts, strict=True):
        target = out / name
        if not target.is_file():
            written = (UnitRow(c.image_id, c.caption_id, nothing, c.split, voice, 0.0, c.text) for c in some)
            rows = said(written, lambda row: phones_of_words(phones_of(clean_text(row.text))))
            write_unit_table(target, rows, described)
    log.info("%d pronunciations; %d sentences with a word that was never said are left out", len(table), left_out)


def read_recordings(speech: Path, units: Path) -> tuple[list[tuple[str, list[SpokenWord]]], dict[str, list[str]]]:
    """Of the train part: (text, how each word was said); and the words of every recording, by caption id.

    Raises:
        Im2SpError: the recordings do not say when which phone was said, as those of people do not.
    """
    heard = {row.caption_id: row for row in iterate_unit_tables(units)}
    words, recordings = {}, []
    for said in read_phones(speech):
        if not said.phones:
            raise Im2SpError(
                f"the recordings in {speech} do not tell their phones: leave [pronunciations] out of the recipe"
            )
        words[said.caption_id] = phones_of_words(said.phones)
        if said.split == "train" and (row := heard.get(said.caption_id)):
            recordings.append((row.text, spoken_words(said.phones, said.phone_samples, row.speech_units)))
    return recordings, words
