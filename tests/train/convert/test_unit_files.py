"""Published unit files of a corpus -> unit tables: where they lie, what is wrong with them, what reads the result."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.convert.unit_files import UnitFiles
from im2sp.train.data.recordings import PROBLEMS, RecordingOptions, import_corpus
from im2sp.train.data.unit_table import iterate_unit_tables
from tests.train.convert.hostile_files import TORCH, WRITERS, Attack
from tests.train.data.tiny_corpora import write_spoken_coco

OPTIONS = RecordingOptions("spoken-coco")


def units_of(name: str) -> np.ndarray:
    """int64 [F], at 50 Hz, with repeats: something else for each recording."""
    random = np.random.default_rng(list(name.encode()))
    return np.repeat(random.integers(0, 200, size=12), random.integers(1, 4, size=12)).astype(np.int64)


def write_units(wavs: Path, folder: Path, kind: str = "torch", depth: int = 9) -> None:
    """A unit file for each wav below a folder, at most so many folders deep."""
    for wav in wavs.rglob("*.wav"):
        parts = wav.relative_to(wavs).with_suffix(".unit").parts
        path = folder.joinpath(*parts[-depth:])
        path.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[kind](units_of(wav.stem), path)


def run(corpus: Path, units: Path, out: Path) -> None:
    files = UnitFiles(units, 200, OPTIONS)
    import_corpus(corpus, OPTIONS, files.read, files.write, out)


@pytest.mark.parametrize("depth", [1, 2, 9])
@pytest.mark.parametrize("kind", TORCH)
def test_each_recording_has_its_units(kind: str, depth: int, tmp_path: Path) -> None:
    write_spoken_coco(tmp_path / "corpus")
    write_units(tmp_path / "corpus", tmp_path / "units", kind, depth)
    run(tmp_path / "corpus", tmp_path / "units", tmp_path / "out")
    rows = {row.caption_id: row for row in iterate_unit_tables(tmp_path / "out")}
    assert list(rows) == ["m0-42", "m1-42", "m0-9", "m1-9", "m0-25", "m1-25"]
    for name, row in rows.items():
        assert row.speech_units.tolist() == units_of(name).tolist()
        assert row.duration_s == pytest.approx(len(units_of(name)) / 50)
    first = rows["m0-42"]
    assert (first.image_id, first.split, first.speaker, first.text) == ("42", "dev", "m0", "a cat sits number 0")


def test_the_longest_common_path_counts(tmp_path: Path) -> None:
    write_spoken_coco(tmp_path / "corpus")
    write_units(tmp_path / "corpus", tmp_path / "units")
    torch.save(np.zeros(9, np.int64), tmp_path / "units" / "m0-42.unit")
    run(tmp_path / "corpus", tmp_path / "units", tmp_path / "out")
    first = next(iterate_unit_tables(tmp_path / "out", "dev"))
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
    run(tmp_path / "corpus", tmp_path / "units", tmp_path / "out")
    assert [row.caption_id for row in iterate_unit_tables(tmp_path / "out")] == ["m1-25"]
    assert not (tmp_path / "canary").exists()
    files = (tmp_path / "out" / PROBLEMS).glob("*.jsonl")
    said = {row["where"]: row["message"] for path in files for row in map(json.loads, path.open())}
    assert len(said) == 5
    assert "units from 5 to 200, where there are 200" in said["m0-42"]
    assert "holds no vector of units" in said["m1-42"]
    assert "asks to run" in said["m0-9"]
    assert "m0-25.unit is missing" in said["m0-25"]


@pytest.mark.parametrize(("folder", "units", "why"), [("none", 200, "is not there"), (".", 70_000, "cannot be stored")])
def test_what_cannot_be_meant_is_refused(folder: str, units: int, why: str, tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match=why):
        UnitFiles(tmp_path / folder, units, OPTIONS)


def test_lines_of_fairseq_are_units(tmp_path: Path) -> None:
    write_spoken_coco(tmp_path / "corpus")
    units = tmp_path / "units"
    units.mkdir()
    lines = {"m0-42": "17 17 199 5 5 5", "m1-42": "", "m0-9": "1 2 200 4 5 6", "m1-9": "x 1 2 3 4 5"}
    places = {name: f"wavs/{'val' if '42' in name else 'train'}/0/{name}.wav" for name in lines}
    (units / "tw.tsv").write_text("/data\n" + "".join(f"{place}\t8000\n" for place in places.values()))
    (units / "tw.km").write_text("\n".join(lines.values()) + "\n")
    run(tmp_path / "corpus", units, tmp_path / "out")
    (row,) = iterate_unit_tables(tmp_path / "out")
    assert (row.caption_id, row.speech_units.tolist()) == ("m0-42", [17, 17, 199, 5, 5, 5])
    files = (tmp_path / "out" / PROBLEMS).glob("*.jsonl")
    said = {row["where"]: row["kind"] for path in files for row in map(json.loads, path.open())}
    assert said == {
        "m1-42": "too-short", "m0-9": "unreadable", "m1-9": "unreadable", "m0-25": "missing", "m1-25": "missing"
    }  # fmt: skip
    (units / "tw.km").write_text("17\n")
    with pytest.raises(Im2SpError, match=r"has 1 lines and .*tw\.tsv names 4 recordings"):
        run(tmp_path / "corpus", units, tmp_path / "again")
    (units / "tw.tsv").unlink()
    with pytest.raises(Im2SpError, match=r"tw\.tsv cannot be read"):
        run(tmp_path / "corpus", units, tmp_path / "again")
