"""Stage `resound`: a finished translator and another voice -> by which units of that voice its subwords are said.

It costs minutes, where a translator that learns other units costs hours: see `im2sp.train.data.resounding`.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from im2sp.errors import Im2SpError
from im2sp.files import replace_whole
from im2sp.speech.units import without_repeats
from im2sp.train.data.pronunciations import Pronunciations
from im2sp.train.data.resounding import mean_difference, resounded
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.models.saving import CONFIG, WEIGHTS

log = logging.getLogger(__name__)

CHECKED = 1000  # sentences on which the difference is told


def check(files: Iterable[Path]) -> None:
    """Make sure that all files are there.

    Raises:
        Im2SpError: one is missing.
    """
    for path in files:
        if not path.is_file():
            raise Im2SpError(f"{path} is missing: run the stage `pronounce` of that run first")


def resound(
    subwords: UnitSubwords,
    before: Pronunciations,
    after: Pronunciations,
    sentences: Iterable[Sequence[str]],
    out: Path,
) -> None:
    """Write `out`, JSON: the new units of every subword, by subword id. What is there is not made again.

    Args:
        before, after: how words are said in the units that the translator learned, and in those of the new voice.
        sentences: phones of each word, of the sentences that the translator learned from.

    Raises:
        Im2SpError: no sentence can be said by both tables.
    """
    if out.is_file():
        return
    listed = [tuple(words) for words in sentences]
    table = resounded(subwords, before, after, listed)
    said = ((before.say(words), after.say(words)) for words in listed[:: max(1, len(listed) // CHECKED)])
    pairs = [(without_repeats(old), without_repeats(new)) for old, new in said if old is not None and new is not None]
    with replace_whole(out) as temporary:
        temporary.write_text(json.dumps(table), encoding="utf-8")
    log.info(
        "resound: %d of %d subwords are used; %.1f %% of the units of %d sentences differ from those of the table",
        sum(map(bool, table)),
        len(table),
        100 * mean_difference(table, subwords, pairs),
        len(pairs),
    )


def take_over(translator: Path, subwords: Path, out: Path, subwords_out: Path) -> None:
    """Copy a finished translator and its subwords, unless they are there.

    Raises:
        Im2SpError: the translator is not finished.
    """
    if not (translator / WEIGHTS).is_file():
        raise Im2SpError(f"{translator / WEIGHTS} is missing: run the stage `translate` of that run first")
    out.mkdir(parents=True, exist_ok=True)
    for source, target in (
        (translator / WEIGHTS, out / WEIGHTS),
        (translator / CONFIG, out / CONFIG),
        (subwords, subwords_out),
    ):
        with replace_whole(target) as temporary:
            shutil.copyfile(source, temporary)
