"""Published unit files of a corpus -> unit tables: where they lie, what is wrong with them, what reads the result."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from im2sp.errors import Im2SpError
from im2sp.train.cli import app
from im2sp.train.data.corpora.spoken_coco import SpokenCoco
from im2sp.train.data.speech_ingest import PROBLEMS, Ingested, IngestOptions, ingest
from im2sp.train.data.unit_files import UnitFiles
from im2sp.train.data.unit_table import read_unit_tables, unit_table_files
from im2sp.train.stages.units import learn_subwords
from tests.train.convert.test_checkpoints import Attack, Writer, torch_legacy, torch_zip
from tests.train.data.tiny_corpora import write_flickr8k_audio, write_spoken_coco

OPTIONS = IngestOptions(shard_size=3)


def units_of(name: str) -> np.ndarray:
    """int64 [F], at 50 Hz, with repeats: something else for each recording."""
    random = np.random.default_rng(list(name.encode()))
    return np.repeat(random.integers(0, 200, size=12), random.integers(1, 4, size=12)).astype(np.int64)


def write_units(wavs: Path, folder: Path, write: Writer = torch_zip, depth: int = 9) -> None:
    """A unit file for each wav below a folder, at most so many folders deep."""
    for wav in wavs.rglob("*.wav"):
        parts = wav.relative_to(wavs).with_suffix(".unit").parts
        path = folder.joinpath(*parts[-depth:])
        path.parent.mkdir(parents=True, exist_ok=True)
        write(units_of(wav.stem), path)


def run(corpus: Path, units: Path, out: Path, options: IngestOptions = OPTIONS) -> Ingested:
    return ingest(SpokenCoco(corpus, corpus), out, options, {}, (), UnitFiles(units, 200, options))


@pytest.mark.parametrize("depth", [1, 2, 9])
@pytest.mark.parametrize("write", [torch_zip, torch_legacy])
def test_each_recording_has_its_units(write: Writer, depth: int, tmp_path: Path) -> None:
    write_spoken_coco(tmp_path / "corpus")
    write_units(tmp_path / "corpus", tmp_path / "units", write, depth)
    found = run(tmp_path / "corpus", tmp_path / "units", tmp_path / "out")
    rows = {row.caption_id: row for row in read_unit_tables(tmp_path / "out")}
    assert [path.name for path in unit_table_files(tmp_path / "out")] == [
        "dev-00000.parquet", "train-00000.parquet", "train-00001.parquet"
    ]  # fmt: skip
    assert list(rows) == ["m0-42", "m1-42", "m0-9", "m1-9", "m0-25", "m1-25"]
    for name, row in rows.items():
        assert row.speech_units.tolist() == units_of(name).tolist()
        assert row.duration_s == pytest.approx(len(units_of(name)) / 50)
    first = rows["m0-42"]
    assert (first.image_id, first.split, first.speaker, first.text) == ("42", "dev", "m0", "a cat sits number 0")
    assert (found.recordings, found.shards, found.left_out) == (6, 3, {})
    assert found.seconds == pytest.approx(sum(len(units_of(name)) for name in rows) / 50)
    assert run(tmp_path / "corpus", tmp_path / "units", tmp_path / "out").written == 0


def test_the_longest_common_path_counts(tmp_path: Path) -> None:
    write_spoken_coco(tmp_path / "corpus")
    write_units(tmp_path / "corpus", tmp_path / "units")
    torch.save(np.zeros(9, np.int64), tmp_path / "units" / "m0-42.unit")
    run(tmp_path / "corpus", tmp_path / "units", tmp_path / "out")
    first = read_unit_tables(tmp_path / "out", "dev")[0]
    assert first.speech_units.tolist() == units_of("m0-42").tolist()


def test_bad_files_are_left_out_and_no_attack_is_run(tmp_path: Path) -> None:
    write_spoken_coco(tmp_path / "corpus")
    write_units(tmp_path / "corpus", tmp_path / "units", depth=1)
    bad = {
        "m0-42": np.array([5, 200], np.int64),
        "m1-42": np.zeros((2, 20), np.int64),
        "m0-9": Attack(os.system, f"touch {tmp_path / 'canary'}"),
        "m1-9": np.zeros(3, np.int64),
    }
    for name, content in bad.items():
        torch.save(content, tmp_path / "units" / f"{name}.unit")
    (tmp_path / "units" / "m0-25.unit").unlink()
    found = run(tmp_path / "corpus", tmp_path / "units", tmp_path / "out")
    assert found.left_out == {"unreadable": 3, "too-short": 1, "missing": 1}
    assert [row.caption_id for row in read_unit_tables(tmp_path / "out")] == ["m1-25"]
    assert not (tmp_path / "canary").exists()
    said = {line["where"]: line["message"] for line in map(json.loads, (tmp_path / "out" / PROBLEMS).open())}
    assert "units from 5 to 200, where there are 200" in said["m0-42"]
    assert "holds no vector of units" in said["m1-42"]
    assert "asks to run" in said["m0-9"]
    assert "m0-25.unit is missing" in said["m0-25"]


def test_the_command_makes_what_the_stages_read(tmp_path: Path) -> None:
    write_flickr8k_audio(tmp_path / "corpus")
    write_units(tmp_path / "corpus" / "flickr_audio" / "wavs", tmp_path / "units")
    words = ["ingest", str(tmp_path / "corpus"), "--layout", "flickr8k-audio", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--unit-files", str(tmp_path / "units")], catch_exceptions=False)
    assert "8 recordings, 0.00 hours, in 3 shards" in result.output
    assert learn_subwords(tmp_path / "out", tmp_path / "subwords.json", 200, 200).vocabulary_size == 203
    again = CliRunner().invoke(app, [*words, "--unit-files", str(tmp_path / "units"), "--units", "300"])
    assert "was begun with another units" in str(again.exception)


@pytest.mark.parametrize(("folder", "units", "why"), [("none", 200, "is not there"), (".", 70_000, "cannot be stored")])
def test_what_cannot_be_meant_is_refused(folder: str, units: int, why: str, tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match=why):
        UnitFiles(tmp_path / folder, units, OPTIONS)
