"""A shard is made of its photos, one result for each, the same bytes whenever it is made, and whatever happens."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from im2sp.batch import CaptionerConfig
from im2sp.captioner import Captioner
from im2sp.collections.ledger import Run, open_ledger
from im2sp.collections.making import make_shard
from im2sp.collections.planning import Reading, plan_shards
from im2sp.collections.products import Captions, Product, Units
from im2sp.collections.shards import Shard, ShardResult
from im2sp.collections.slices import Slice, WholeTar
from im2sp.errors import Im2SpError, OutputError
from im2sp.image.unit_table import UnitTable
from im2sp.speech.audio import encode_wav
from tests.collections.sources import picture, rows_of, write_photos, write_table, write_tar

RUN = Run("captions", "0" * 64, {"beam": 1}, "1" * 64, 2)


@pytest.fixture(scope="module")
def captions(tiny_bundle: Path) -> Captions:
    return Captions(CaptionerConfig(str(tiny_bundle), threads=1))


@pytest.fixture(scope="module")
def units(unit_bundle: Path) -> Units:
    return Units(str(unit_bundle), threads=1)


def slices(*sources: Path, shard: int = 100) -> tuple[Slice, ...]:
    return plan_shards(sources, Reading(shard=shard)).slices


def made(folder: Path, pieces: tuple[Slice, ...], product: Product) -> list[ShardResult]:
    folder.mkdir()
    return [make_shard(folder, number, piece, product) for number, piece in enumerate(pieces)]


# ---- captions ----


def test_captions_are_what_the_captioner_says(tmp_path: Path, tiny_bundle: Path, captions: Captions) -> None:
    folder = write_photos(tmp_path / "in", 3)
    (folder / "bad.png").write_text("no picture")
    out = tmp_path / "out"
    assert made(out, slices(folder), captions) == [ShardResult(0, 4, 1)]
    assert sorted(os.listdir(out)) == ["captions-000000.parquet", "shard-000000.json", "wavs-000000.tar"]
    rows = rows_of(out / "captions-000000.parquet")
    assert [row["image_id"] for row in rows] == ["00.png", "01.png", "02.png", "bad.png"]
    captioner = Captioner.from_pretrained(tiny_bundle, threads=1)
    with tarfile.open(out / "wavs-000000.tar") as tar:
        assert tar.getnames() == [row["wav"] for row in rows[:3]] == [f"000000-{n:06d}.wav" for n in range(3)]
        for row in rows[:3]:
            caption = captioner.caption(folder / row["image_id"])
            assert (row["units"], row["durations"]) == (caption.units.tolist(), caption.durations.tolist())
            assert row["score"] == pytest.approx(caption.score)
            assert (row["confidence"], row["abstained"], row["error"]) == (None, False, None)
            speech = tar.extractfile(row["wav"])
            assert speech is not None
            assert speech.read() == encode_wav(caption.waveform)
    assert rows[3]["error"].startswith(f"{folder / 'bad.png'}: is not a picture")
    assert {value for name, value in rows[3].items() if name not in ("image_id", "error")} == {None}


def test_a_result_does_not_depend_on_its_shard_or_on_how_the_photo_came(tmp_path: Path, captions: Captions) -> None:
    photos = {f"{seed}.png": picture(seed) for seed in range(5)}
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in photos.items():
        (folder / name).write_bytes(data)
    table = write_table(tmp_path / "a.parquet", {"key": list(photos), "bytes": list(photos.values())})
    tar = write_tar(tmp_path / "a.tar", photos)
    found = []
    for number, (source, shard) in enumerate([(folder, 5), (folder, 2), (table, 3), (tar, 1)]):
        out = tmp_path / f"out{number}"
        made(out, slices(source, shard=shard), captions)
        rows = rows_of(*sorted(out.glob("captions-*.parquet")))
        speech = {}
        for path in sorted(out.glob("wavs-*.tar")):
            with tarfile.open(path) as wavs:
                speech |= {name: wavs.extractfile(name).read() for name in wavs.getnames()}  # type: ignore[union-attr]
        found.append([{**row, "wav": speech[row["wav"]]} for row in rows])
    assert found[0] == found[1] == found[2] == found[3]


def test_a_shard_is_the_same_bytes_again(tmp_path: Path, captions: Captions) -> None:
    pieces = slices(write_photos(tmp_path / "in", 3))
    for name in ("one", "two"):
        made(tmp_path / name, pieces, captions)
    files = sorted(os.listdir(tmp_path / "one"))
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_names_and_photos_that_stand_twice(tmp_path: Path, captions: Captions) -> None:
    keys = ["a", "a", "../../b", "", None, "c" * 5_000, "d\n"]
    table = write_table(tmp_path / "a.parquet", {"key": keys, "bytes": [picture(0)] * 6 + [None]})
    assert made(tmp_path / "out", slices(table), captions) == [ShardResult(0, 7, 5)]
    rows = rows_of(tmp_path / "out" / "captions-000000.parquet")
    assert [row["image_id"] for row in rows] == ["a", "a", "../../b", *(f"a.parquet/{n}" for n in (3, 4, 5)), "d\n"]
    assert rows[1]["error"] == f"a: stands twice in {table}; the first one counts"
    assert rows[2]["wav"] == "000000-000002.wav"
    assert "its id is empty, longer than 4096 bytes" in rows[5]["error"]
    assert rows[6]["error"] == "a.parquet/6: has no photo"


# ---- image units ----


def test_units_are_tables_that_caption_reads(
    tmp_path: Path, unit_bundle: Path, units: Units, captions: Captions
) -> None:
    tar = write_tar(tmp_path / "a.tar", {"1.png": picture(0), "bad.png": b"x", "2.png": picture(1)})
    assert made(tmp_path / "out", slices(tar), units) == [ShardResult(0, 3, 1)]
    captioner = Captioner.from_pretrained(unit_bundle, threads=1)
    found = {image_id: row.units.tolist() for image_id, row in UnitTable.open(tmp_path / "out/units-000000.parquet")}
    assert found == {
        f"{n}.png": captioner.image_units(io.BytesIO(picture(n - 1))).tolist()  # type: ignore[arg-type]
        for n in (1, 2)
    }
    (error,) = rows_of(tmp_path / "out" / "errors-000000.parquet")
    assert error["image_id"] == "bad.png"
    assert error["error"].startswith("bad.png: is not a picture")
    tables = tmp_path / "tables"
    tables.mkdir()
    os.link(tmp_path / "out" / "units-000000.parquet", tables / "units.parquet")
    plan = plan_shards([tables], Reading(tokenizer=captioner.image_tokenizer))
    captions = Captions(CaptionerConfig(str(unit_bundle), 1))
    assert made(tmp_path / "spoken", plan.slices, captions) == [ShardResult(0, 2, 0)]


def test_tables_without_rows_are_not_written(tmp_path: Path, units: Units) -> None:
    tars = [write_tar(tmp_path / "good.tar", {"1.png": picture(0)}), write_tar(tmp_path / "worse.tar", {"1.png": b"x"})]
    made(tmp_path / "out", slices(*tars), units)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        "errors-000001.parquet",
        "units-000000.parquet",
    ]


# ---- what happens meanwhile ----


def test_a_photo_that_ends_its_process_again_and_again_is_left_out(tmp_path: Path, captions: Captions) -> None:
    (piece,) = slices(write_photos(tmp_path / "in", 3))
    out = tmp_path / "out"
    out.mkdir()
    attempt = "start 1\nread 0\nmake 0\nread 1\nmake 1\n"
    Shard(out, 0).attempts.write_text(attempt * 2)
    assert make_shard(out, 0, piece, captions) == ShardResult(0, 3, 0)  # twice may be chance
    Shard(out, 0).mark.unlink()
    Shard(out, 0).attempts.write_text(attempt * 3)
    assert make_shard(out, 0, piece, captions) == ShardResult(0, 3, 1)
    rows = rows_of(out / "captions-000000.parquet")
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert "01.png: ended the process that worked on it 3 times" in rows[1]["error"]


def test_reading_that_ends_its_process_again_and_again_stops_there(tmp_path: Path, captions: Captions) -> None:
    (piece,) = slices(write_table(tmp_path / "a.parquet", {"bytes": [picture(seed) for seed in range(3)]}))
    out = tmp_path / "out"
    out.mkdir()
    Shard(out, 0).attempts.write_text("start 1\nread 0\nmake 0\nread 1\n" * 3)
    assert make_shard(out, 0, piece, captions) == ShardResult(0, 3, 2)
    rows = rows_of(out / "captions-000000.parquet")
    assert [row["image_id"] for row in rows] == [f"a.parquet/{n}" for n in range(3)]
    assert [row["error"] is None for row in rows] == [True, False, False]


def test_a_shard_that_is_there_is_not_made_again(tmp_path: Path, captions: Captions) -> None:
    (piece,) = slices(write_photos(tmp_path / "in", 2))
    first = made(tmp_path / "out", (piece,), captions)
    before = (tmp_path / "out" / "wavs-000000.tar").stat().st_mtime_ns
    assert make_shard(tmp_path / "out", 0, WholeTar("nowhere.tar"), captions) == first[0]
    assert (tmp_path / "out" / "wavs-000000.tar").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["cut", "gone", "mark", "strange"])
def test_a_shard_that_is_damaged_is_made_again(tmp_path: Path, captions: Captions, damage: str) -> None:
    (piece,) = slices(write_photos(tmp_path / "in", 2))
    out = tmp_path / "out"
    made(out, (piece,), captions)
    wavs = (out / "wavs-000000.tar").read_bytes()
    if damage == "cut":
        (out / "wavs-000000.tar").write_bytes(wavs[:100])
    elif damage == "gone":
        (out / "wavs-000000.tar").unlink()
    elif damage == "mark":
        (out / "shard-000000.json").write_text("{")
    else:
        mark = json.loads((out / "shard-000000.json").read_text())
        mark["files"][0]["name"] = "../in/00.png"
        (out / "shard-000000.json").write_text(json.dumps(mark))
    assert Shard(out, 0).sealed() is None
    assert make_shard(out, 0, piece, captions) == ShardResult(0, 2, 0)
    assert (out / "wavs-000000.tar").read_bytes() == wavs


def test_a_folder_that_cannot_be_written(tmp_path: Path, captions: Captions) -> None:
    (piece,) = slices(write_photos(tmp_path / "in", 1))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        make_shard(tmp_path / "file", 0, piece, captions)


# ---- the ledger ----


def test_a_ledger_tells_what_is_done_and_closes_it_off(tmp_path: Path, captions: Captions) -> None:
    pieces = slices(write_photos(tmp_path / "in", 2), shard=1)
    out = tmp_path / "out"
    with open_ledger(out, RUN) as ledger:
        make_shard(out, 0, pieces[0], captions)
        assert set(ledger.done()) == {0}
        with pytest.raises(OutputError, match="shard 1 is not there any more"):
            ledger.close_off()
        make_shard(out, 1, pieces[1], captions)
        ledger.close_off()
    sums = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
    assert sorted(sums) == [f"{kind}-00000{n}.{end}" for kind, end in KINDS for n in (0, 1)]


KINDS = (("captions", "parquet"), ("wavs", "tar"))


def test_what_was_left_half_done_is_cleared_away(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_ledger(out, RUN):
        pass
    for name in (".wavs-000000.tar.abcdefgh.part", ".shard-000000.attempts", "notes.txt"):
        (out / name).touch()
    with open_ledger(out, RUN):
        assert sorted(os.listdir(out)) == [".im2sp.lock", "notes.txt", "run.json"]


def test_folders_of_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        open_ledger(out, RUN),
        pytest.raises(OutputError, match="another im2sp is writing there"),
        open_ledger(out, RUN),
    ):
        pass
    for change, difference in {
        ("makes", "units"): "by another command",
        ("bundle", "2" * 64): "with another bundle",
        ("photos", "2" * 64): "with other photos or another size of shards",
    }.items():
        other = Run(**{**vars(RUN), change[0]: change[1]})  # type: ignore[arg-type]
        with pytest.raises(OutputError, match=f"was begun {difference}; go on"), open_ledger(out, other):
            pass
    (out / "run.json").write_text("[]")
    with pytest.raises(OutputError, match="is damaged or of another im2sp"), open_ledger(out, RUN):
        pass
    with pytest.raises(OutputError, match="holds something else already"), open_ledger(write_photos(tmp_path, 1), RUN):
        pass


def test_captions_are_tables_with_types(tmp_path: Path, captions: Captions) -> None:
    made(tmp_path / "out", slices(write_tar(tmp_path / "a.tar", {"bad.png": b"x"})), captions)
    schema = pq.read_schema(tmp_path / "out" / "captions-000000.parquet")
    assert schema.field("units").type == pa.list_(pa.field("element", pa.int32(), nullable=False))
    assert schema.field("confidence").type == pa.float32()


def test_options_that_a_bundle_cannot_follow(tiny_bundle: Path) -> None:
    with pytest.raises(Im2SpError, match="has no calibrated confidence"):
        Captions(CaptionerConfig(str(tiny_bundle), 1, (("min_confidence", 0.5),)))
