"""Sentences that are stored once and looked up: the same, in the same order, as tables that are held in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from im2sp.errors import Im2SpError
from im2sp.speech.units import remove_repeats
from im2sp.train.data import unit_table
from im2sp.train.data.sentences import INDEX, StoredSentences, store_sentences
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.data.unit_table import UnitRow, read_unit_tables, write_unit_table
from im2sp.train.training.translator import PhotoBatches, Sentences, TranslatorTraining

UNITS, LONGEST = 20, 12


def write_tables(folder: Path, tables: int = 3) -> None:
    """Captions of a photo are in several tables, and both splits in one."""
    random = np.random.default_rng(tables)
    for table in range(tables):
        rows = [
            UnitRow(
                f"photo{random.integers(9)}",
                f"{table}-{row}",
                random.integers(UNITS, size=random.integers(1, 18)).astype(np.uint16),
                "dev" if row % 5 == 0 else "train",
                "nobody",
                0.3,
                "",
            )
            for row in range(20)
        ]
        write_unit_table(folder / f"train-{table:04d}.parquet", rows, {"units": UNITS})


@pytest.fixture
def subwords(tmp_path: Path) -> UnitSubwords:
    write_tables(tmp_path / "units")
    sentences = [remove_repeats(row.speech_units)[0] for row in read_unit_tables(tmp_path / "units")]
    return UnitSubwords.train(sentences, UNITS, UNITS + 6)


def stored(tmp_path: Path, subwords: UnitSubwords, split: str = "train", tables: str = "*") -> StoredSentences:
    return store_sentences(tmp_path / "units", split, tables, subwords, LONGEST, tmp_path / "out" / split)


def held(tmp_path: Path, subwords: UnitSubwords, split: str = "train") -> Sentences:
    """The same, all in memory."""
    found: Sentences = {}
    for row in read_unit_tables(tmp_path / "units", split):
        tokens = subwords.encode(remove_repeats(row.speech_units)[0])
        if len(tokens) <= LONGEST:
            found.setdefault(row.image_id, []).append(tokens)
    return found


@pytest.mark.parametrize("rows_at_once", [1, 7, 1024])
def test_every_caption_of_every_photo_in_the_order_of_the_tables(
    rows_at_once: int, subwords: UnitSubwords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_table, "ROWS_AT_ONCE", rows_at_once)
    for split in ("train", "dev"):
        found, wanted = stored(tmp_path, subwords, split), held(tmp_path, subwords, split)
        assert list(found) == list(wanted)
        assert {name: [caption.tolist() for caption in found[name]] for name in found} == wanted
    counts = json.loads((tmp_path / "out" / "train" / INDEX).read_text())["tables"]
    assert list(counts) == [f"train-{table:04d}.parquet" for table in range(3)]
    wanted = held(tmp_path, subwords)
    assert sum(table["captions"] for table in counts.values()) == sum(map(len, wanted.values()))
    assert sum(table["tokens"] for table in counts.values()) == sum(len(c) for each in wanted.values() for c in each)


def test_batches_are_those_of_sentences_in_memory_wherever_a_run_goes_on(
    subwords: UnitSubwords, tmp_path: Path
) -> None:
    options = TranslatorTraining(captions=2, seed=3)
    once = PhotoBatches(held(tmp_path, subwords), options, 2, 2)
    wanted = [once.at(step) for step in range(12)]  # three epochs of four steps
    for first in (0, 3, 5):
        resumed = PhotoBatches(stored(tmp_path, subwords), options, 2, 2)
        for step in range(first, 12):
            found = resumed.at(step)
            assert found.ids == wanted[step].ids
            assert found.views.tolist() == wanted[step].views.tolist()
            assert found.targets == wanted[step].targets
            for ours, theirs in zip(found.tensors(), wanted[step].tensors(), strict=True):
                assert ours.tolist() == theirs.tolist()


def test_they_are_stored_again_only_where_what_they_are_made_of_has_changed(
    subwords: UnitSubwords, tmp_path: Path
) -> None:
    index = tmp_path / "out" / "train" / INDEX
    stored(tmp_path, subwords)
    first = index.stat().st_mtime_ns
    stored(tmp_path, subwords)
    assert index.stat().st_mtime_ns == first
    write_tables(tmp_path / "units", 4)
    assert {name: len(each) for name, each in stored(tmp_path, subwords).items()} == {
        name: len(each) for name, each in held(tmp_path, subwords).items()
    }
    assert index.stat().st_mtime_ns != first


def test_none_are_none_and_no_table_is_one_sentence(subwords: UnitSubwords, tmp_path: Path) -> None:
    empty = stored(tmp_path, subwords, "test")
    assert (len(empty), list(empty)) == (0, [])
    with pytest.raises(Im2SpError, match="holds no unit table"):
        stored(tmp_path, subwords, tables="distilled-*")
