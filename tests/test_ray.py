"""Collections on Ray Data: one row a photo, also over a stop and a killed worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import im2sp.ray
from im2sp.batch import CaptionerConfig
from im2sp.captioner import Captioner
from im2sp.errors import BundleError, Im2SpError, OutputError
from im2sp.image.finding import Survey
from im2sp.image.formats import readable_kinds
from im2sp.image.listing import Collection, list_photos
from im2sp.image.unit_table import UnitTable
from im2sp.installing import install_command
from im2sp.ray import _Captions, _Work, caption_collection, tokenize_collection
from im2sp.ray.cluster import cluster
from im2sp.speech.audio import encode_wav
from tests.cli.test_commands import call, sentence
from tests.image.collections import picture, write_photos, write_table, write_tar


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in folder.glob("captions-*.parquet") for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One cluster for all tests that need one; begun again where the machine is too busy for Ray's half minute."""
    with ExitStack() as started:
        try:
            started.enter_context(cluster(workers=2, threads=1))
        except Im2SpError:
            started.enter_context(cluster(workers=2, threads=1))
        yield


@pytest.fixture
def config(tiny_bundle: Path) -> CaptionerConfig:
    return CaptionerConfig(str(tiny_bundle), threads=1)


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(im2sp.ray, "BATCH", 4)
    monkeypatch.setattr(im2sp.ray, "ROWS_PER_FILE", 8)


class KilledCaptions(_Captions):
    """Kills its process once in the middle of a batch, and always at a photo that is called deadly.png."""

    def row(self, image: Any, image_id: str) -> dict[str, Any]:
        killed = self._work.parts.parent / "killed"
        if image_id == "deadly.png" or (image_id == "18.png" and not killed.exists()):
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().row(image, image_id)


def test_a_resumed_run_with_a_killed_worker(
    ray: None,
    small_tasks: None,
    tmp_path: Path,
    tiny_bundle: Path,
    config: CaptionerConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = write_photos(tmp_path / "in", 24), tmp_path / "out"
    (folder / "bad.png").write_text("not a picture")
    first = caption_collection(list_photos(sorted(folder.iterdir())[:9]), out, config)
    assert (first.done, first.skipped, first.errors) == (9, 0, ())
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    (out / ".parts").mkdir()
    (out / ".parts" / "half.parquet").write_bytes(b"PAR1 and then the machine died")

    monkeypatch.setattr(im2sp.ray, "_Captions", KilledCaptions)
    counts = caption_collection(list_photos([folder]), out, config)
    assert (out / "killed").exists()
    assert (counts.done, counts.skipped, len(counts.errors)) == (15, 9, 1)
    rows = {row["image_id"]: row for row in rows_of(out)}
    assert len(rows) == len(rows_of(out)) == 25
    assert [name for name, row in rows.items() if row["error"]] == ["bad.png"]
    assert rows["bad.png"]["error"].startswith(f"{folder / 'bad.png'}: is not a picture that im2sp can read")
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert {name for name in os.listdir(out) if not name.startswith("captions-")} == {".im2sp.lock", "killed"}
    captioner = Captioner.from_pretrained(tiny_bundle, threads=1)
    for name in ("03.png", "18.png"):
        caption = captioner.caption(folder / name)
        assert rows[name]["units"] == caption.units.tolist()
        assert rows[name]["durations"] == caption.durations.tolist()
        assert rows[name]["wav"] == encode_wav(caption.waveform)

    assert caption_collection(list_photos([folder]), out, config).skipped == 24  # without Ray
    greedy, few = CaptionerConfig(config.model, 1, (("beam", 1),)), list_photos([folder / "03.png"])
    with pytest.raises(OutputError, match="was made with another bundle, other options or of other photos"):
        caption_collection(list_photos([folder]), out, greedy)
    assert caption_collection(few, out, config, force=True).done == 1
    assert sorted(row["image_id"] for row in rows_of(out)) == sorted(rows)
    assert caption_collection(list_photos([folder]), out, greedy, force=True).done == 24


@pytest.mark.slow
def test_a_photo_that_kills_its_workers(
    ray: None, small_tasks: None, tmp_path: Path, config: CaptionerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_photos(tmp_path / "in", 6)
    (folder / "02.png").rename(folder / "deadly.png")
    monkeypatch.setattr(im2sp.ray, "_Captions", KilledCaptions)
    counts = caption_collection(list_photos([folder]), tmp_path / "out", config, workers=2)
    assert counts.errors == ("deadly.png: ended the process that worked on it 3 times, and is left out",)
    assert len({row["image_id"] for row in rows_of(tmp_path / "out")}) == len(rows_of(tmp_path / "out")) == 6


@pytest.mark.slow
def test_tars_to_units_to_captions_by_the_command(ray: None, tmp_path: Path, unit_bundle: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", {f"{number}-{seed}.png": picture(seed) for seed in range(3)})
    write_tar(tmp_path / "2.tar", {"bad.png": b"x"})
    table, spoken, plain = tmp_path / "units.parquet", tmp_path / "spoken", tmp_path / "plain.parquet"
    options = ("--ray", "--model", unit_bundle, "--threads", 1)
    tars = sorted(tmp_path.glob("*.tar"))
    code, stdout, stderr = call("tokenize", *tars, "-o", table, *options, "--workers", 2)
    assert (code, stdout) == (1, f"{table}: 6 photos tokenized, 1 failed, 72 bits each\n")
    assert sentence(stderr).startswith("bad.png: is not a picture")
    ids = [image_id for image_id, _ in UnitTable.open(table)]
    assert ids == [f"{number}-{seed}.png" for number in range(2) for seed in range(3)]
    folder = tmp_path / "photos"
    folder.mkdir()
    for image_id in ids:
        (folder / image_id).write_bytes(picture(int(image_id[2])))
    assert call("tokenize", folder, "-o", plain, "--model", unit_bundle)[0] == 0
    assert table.read_bytes() == plain.read_bytes()
    code, stdout, stderr = call("caption", table, "-o", spoken, *options)
    assert (code, stdout, stderr) == (0, f"{spoken}: 6 photos spoken\n", "")
    assert sorted(row["image_id"] for row in rows_of(spoken)) == ids
    assert call("caption", table, "-o", spoken, *options) == (
        0,
        f"{spoken}: 0 photos spoken, 6 skipped (spoken before)\n",
        "",
    )


@pytest.mark.slow
def test_a_table_of_photos(ray: None, tmp_path: Path, config: CaptionerConfig) -> None:
    columns = {"key": [1, 2, 3], "image": [{"bytes": picture(0)}, {"bytes": picture(1)}, {"bytes": b"x"}]}
    table = write_table(tmp_path / "a.parquet", columns, row_group_size=2)
    out = tmp_path / "out"
    counts = caption_collection(list_photos([table]), out, config)
    assert counts.errors == (f"3: is not a picture that im2sp can read ({readable_kinds()})",)
    assert sorted(row["image_id"] for row in rows_of(out)) == ["1", "2", "3"]


def test_rows_of_photos_that_cannot_be_read(tmp_path: Path, config: CaptionerConfig) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.png": picture(0), "b.png": picture(1)})
    whole, cut = list_photos([tar]).places
    tar.write_bytes(tar.read_bytes()[: cut.offset + 100])
    places = [whole, cut, whole._replace(image_id="c", size=2**27), whole._replace(image_id="d", path=b"/none.tar")]
    places += [whole._replace(image_id="e"), whole._replace(image_id="f", path=b"/caf\xe9.png", size=-1)]
    kinds = {"image_id": pa.string(), "error": pa.string()}
    worker = _Captions(_Work(config, pa.schema(list(kinds.items())), tmp_path, None))
    table = pa.Table.from_pylist([place._asdict() for place in places])
    deaths = list(tmp_path.glob("*.deaths"))
    assert deaths == []
    errors = {row["image_id"]: row["error"] for row in worker(table).to_pylist()}
    assert errors.pop("a.png") is errors.pop("e") is None
    assert errors == {
        "b.png": "b.png: is cut short; the file ends before the picture does",
        "c": "c: is larger than 64 MiB, the limit for a picture file",
        "d": "/none.tar: cannot be read (there is no such file)",
        "f": "/caf\\udce9.png: cannot be read (there is no such file)",
    }


def test_what_ends_the_run_is_one_sentence(tmp_path: Path, config: CaptionerConfig) -> None:
    collection = list_photos([write_photos(tmp_path / "in", 1)])
    with pytest.raises(BundleError, match="has no image units"):
        tokenize_collection(collection, tmp_path / "units.parquet", config)
    with pytest.raises(Im2SpError, match="beam is 0"):
        caption_collection(collection, tmp_path / "out", CaptionerConfig(config.model, 1, (("beam", 0),)))
    code, _, stderr = call("caption", tmp_path / "in", "-o", tmp_path / "out", "--ray", "--model", "nowhere")
    assert code == 1
    assert re.search("nowhere", sentence(stderr))
    assert call("caption", tmp_path / "in", "--ray", "--play")[0] == 2
    assert call("tokenize", tmp_path / "in", "-o", tmp_path / "out", "--ray")[0] == 2
    assert sorted(os.listdir(tmp_path)) == ["in"]
    assert caption_collection(Collection(frozenset(), Survey(0, ()), ()), tmp_path / "out", config).done == 0


def test_ray_is_loaded_only_when_it_is_used(tmp_path: Path, tiny_bundle: Path) -> None:
    script = "import sys, im2sp.cli, im2sp.ray; print('ray' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
    words = ["caption", str(write_photos(tmp_path / "in", 1)), "-o", str(tmp_path / "out"), "--ray"]
    words += ["--model", str(tiny_bundle)]
    script = f"import sys; sys.modules['ray'] = None; sys.argv[1:] = {words!r}; from im2sp.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"ray is not installed: {install_command('ray')}\n")
