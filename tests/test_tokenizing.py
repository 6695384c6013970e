"""Photos become a table, the table becomes speech and pictures; a stop costs nothing that was done."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from im2sp import tokenizing
from im2sp.batch import Result
from im2sp.captioner import Captioner
from im2sp.errors import BundleError, OutputError, TableError
from im2sp.image.listing import list_photos
from im2sp.image.unit_table import UnitTable, write_unit_table
from im2sp.image.units import ImageUnits
from im2sp.manifest import CAPTIONS, locked
from im2sp.speech.audio import read_audio
from im2sp.tokenizing import tokenize_photos
from tests.cli.test_commands import call, sentence
from tests.tiny_bundle import write_tiny_bundle

GOOD = ["a.png", "b.png", "deep/a.png", "deep/c.png"]


@pytest.fixture(scope="module")
def captioner(unit_bundle: Path) -> Captioner:
    return Captioner.from_pretrained(unit_bundle, threads=1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of four photos, two of one name."""
    for seed, name in enumerate(GOOD):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return tmp_path / "in"


def run(photos: Path, table: Path, captioner: Captioner, most: int = 10**6) -> list[Result]:
    """Tokenize; stop after `most` photos."""
    results = tokenize_photos(list_photos([photos]), table, captioner)
    found = [result for _, result in zip(range(most), results, strict=False)]
    results.close()
    return found


def ids(table: Path) -> list[str]:
    return [image_id for image_id, _ in UnitTable.open(table)]


# ---- tokenize ----


def test_each_photo_has_one_row(photos: Path, tmp_path: Path, captioner: Captioner) -> None:
    table = tmp_path / "new" / "units.parquet"
    results = run(photos, table, captioner)
    assert [result.error for result in results] == [None] * 4
    assert os.listdir(table.parent) == ["units.parquet"]
    opened = UnitTable.open(table)
    assert opened.tokenizer.makes_the_units_of(captioner.image_tokenizer)
    assert ids(table) == GOOD
    for image_id, units in opened:
        assert units.units.tolist() == captioner.tokenize(photos / image_id).tolist()


def test_bad_photos_have_no_row(photos: Path, tmp_path: Path, captioner: Captioner) -> None:
    (photos / "b.png").write_text("not a picture")
    (photos / "empty.png").touch()
    errors = [result.error for result in run(photos, tmp_path / "units.parquet", captioner) if result.error]
    assert [error.split(": ")[0] for error in errors] == [str(photos / "b.png"), str(photos / "empty.png")]
    assert ids(tmp_path / "units.parquet") == ["a.png", "deep/a.png", "deep/c.png"]
    for name in GOOD:
        (photos / name).write_text("not a picture")
    assert all(result.error for result in run(photos, tmp_path / "none.parquet", captioner))
    assert sorted(os.listdir(tmp_path)) == ["in", "units.parquet"]


def test_it_continues_where_it_stopped(
    photos: Path, tmp_path: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizing, "ROWS_PER_FILE", 2)
    table, other = tmp_path / "units.parquet", tmp_path / "other.parquet"
    run(photos, table, captioner, most=3)
    run(photos, other, captioner, most=3)
    assert not table.exists()
    assert [result.skipped for result in run(photos, table, captioner)] == [True, True, True, False]
    assert ids(table) == GOOD
    run(photos, tmp_path / "whole.parquet", captioner)
    assert table.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    (photos / "a.png").unlink()  # finished, but gone before the table was made
    run(photos, other, captioner)
    assert ids(other) == GOOD[1:]
    assert sorted(os.listdir(tmp_path)) == ["in", "other.parquet", "units.parquet", "whole.parquet"]


def test_what_is_refused_before_anything_is_done(
    photos: Path, tmp_path: Path, captioner: Captioner, tiny_bundle: Path
) -> None:
    table = tmp_path / "units.parquet"
    with pytest.raises(BundleError, match="has no image units"):
        run(photos, table, Captioner.from_pretrained(tiny_bundle, threads=1))
    assert os.listdir(tmp_path) == ["in"]
    with (
        locked(tmp_path / "units.parquet.part"),
        pytest.raises(OutputError, match="another im2sp is writing there"),
    ):
        run(photos, table, captioner)
    table.write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        run(photos, table, captioner)
    assert table.read_text() == "mine"


def test_what_was_begun_otherwise_is_not_gone_on_with(photos: Path, tmp_path: Path, captioner: Captioner) -> None:
    table, work = tmp_path / "units.parquet", tmp_path / "units.parquet.part"
    run(photos, table, captioner, most=2)
    other = Captioner.from_pretrained(write_tiny_bundle(tmp_path / "other", seed=1, image_units=True), threads=1)
    for source, tokenizes in ((photos, other), (photos / "deep", captioner)):
        with pytest.raises(OutputError, match="was made with another bundle, other options or of other photos"):
            run(source, table, tokenizes)
    next(work.glob("units-*.parquet")).write_bytes(b"[]")
    with pytest.raises(TableError, match="is not a Parquet file"):
        run(photos, table, captioner)
    assert not table.exists()


def test_the_command(photos: Path, tmp_path: Path, unit_bundle: Path, tiny_bundle: Path) -> None:
    table = tmp_path / "units.parquet"
    (photos / "bad.png").write_text("not a picture")
    code, stdout, stderr = call("tokenize", photos, "-o", table, "--model", unit_bundle)
    assert (code, stdout) == (1, f"{table}: 4 photos tokenized, 1 failed, 72 bits each\n")
    assert sentence(stderr).startswith(f"{photos / 'bad.png'}: is not a picture")
    assert "is there already" in sentence(call("tokenize", photos, "-o", table, "--model", unit_bundle)[2])
    told = json.loads(call("info", "--model", unit_bundle, "--json")[1])["image_units"]
    assert (told["tokenizer"], told["units"], told["bits"]) == ("tiny-semantic", 18, 72)
    assert call("tokenize", photos, "-o", tmp_path / "units", "--model", unit_bundle)[0] == 2
    without = ["--model", tiny_bundle]
    refusal = sentence(call("caption", table, "-o", tmp_path / "out", *without)[2])
    assert call("tokenize", photos, "-o", tmp_path / "x.parquet", *without)[::2] == (1, refusal + "\n")


# ---- caption ----


@pytest.fixture
def table(photos: Path, tmp_path: Path, captioner: Captioner) -> Path:
    run(photos, tmp_path / "units.parquet", captioner)
    return tmp_path / "units.parquet"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_table_says_what_the_photos_say(
    workers: int, photos: Path, table: Path, tmp_path: Path, unit_bundle: Path
) -> None:
    options = ["--model", unit_bundle, "--workers", workers]
    assert call("caption", photos, "-o", tmp_path / "photos", "--model", unit_bundle)[0] == 0
    code, stdout, stderr = call("caption", table, "-o", tmp_path / "table", *options)
    assert (code, stdout, stderr) == (0, f"{tmp_path / 'table'}: 4 photos spoken\n", "")
    spoken = {}
    for folder, root in (("photos", photos), ("table", table)):
        lines = [json.loads(line) for line in (tmp_path / folder / CAPTIONS).read_text().splitlines()]
        spoken[folder] = {
            os.path.relpath(line["image"], root): (line["units"], (tmp_path / folder / line["wav"]).read_bytes())
            for line in lines
        }
    assert sorted(spoken["photos"]) == GOOD
    assert spoken["table"] == spoken["photos"]
    code, stdout, _ = call("caption", table, "-o", tmp_path / "table", "--model", unit_bundle)
    assert (code, stdout) == (0, f"{tmp_path / 'table'}: 0 photos spoken, 4 skipped (spoken before)\n")


def test_names_of_speech_stay_in_the_folder(tmp_path: Path, captioner: Captioner, unit_bundle: Path) -> None:
    hostile = ["../../evil.jpg", "/evil.jpg", "..", "evil\0.jpg", "\\evil.jpg", "captions.jsonl", "x" * 4_000]
    units = np.zeros(18, np.int64)
    write_unit_table(tmp_path / "t.parquet", captioner.image_tokenizer, [(name, units) for name in hostile])
    code, _, stderr = call("caption", tmp_path / "t.parquet", "-o", tmp_path / "out", "--model", unit_bundle)
    assert (code, stderr) == (0, "")
    assert sorted(os.listdir(tmp_path)) == ["out", "t.parquet"]
    wavs = list((tmp_path / "out").glob("*.wav"))
    assert len(wavs) == len(hostile)
    assert all(len(read_audio(wav)) > 0 for wav in wavs)


def test_a_table_that_is_wrong_far_below_leaves_nothing(tmp_path: Path, table: Path, unit_bundle: Path) -> None:
    data = table.read_bytes()
    cut, missing = tmp_path / "cut.parquet", tmp_path / "missing.parquet"
    cut.write_bytes(data[:-20])
    for path in (cut, missing):
        for name in ("caption", "reconstruct"):
            code, stdout, stderr = call(name, path, "-o", tmp_path / "out", "--model", unit_bundle)
            assert (code, stdout) == (1, "")
            assert str(path) in sentence(stderr)
    other = write_tiny_bundle(tmp_path / "other", seed=1, image_units=True)
    assert "were made by the tokenizer" in sentence(call("caption", table, "-o", tmp_path / "out", "--model", other)[2])
    assert call("caption", table, tmp_path / "in", "-o", tmp_path / "out", "--model", unit_bundle)[0] == 2
    assert not (tmp_path / "out").exists()


# ---- reconstruct ----


def test_pictures_from_a_table(
    table: Path, photos: Path, tmp_path: Path, unit_bundle: Path, captioner: Captioner
) -> None:
    code, stdout, stderr = call("reconstruct", table, "-o", tmp_path / "out", "--model", unit_bundle)
    assert (code, stderr) == (0, "")
    paths = [Path(line) for line in stdout.splitlines()]
    assert sorted(path.name for path in paths) == sorted(os.listdir(tmp_path / "out"))
    assert paths[0] == tmp_path / "out" / "a.reconstructed.png"
    for path, image_id in zip(paths, GOOD, strict=True):
        units = ImageUnits(captioner.tokenize(photos / image_id), captioner.image_tokenizer)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), captioner.reconstruct(units))
