"""Shards are made by workers on Ray: each photo once, also when a worker is killed or the run is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from im2sp.batch import CaptionerConfig
from im2sp.collections import running
from im2sp.collections.cluster import Workers, _end_processes_of, cluster
from im2sp.collections.planning import Plan, Reading, plan_shards
from im2sp.collections.running import make_captions, make_units
from im2sp.collections.shards import ShardResult
from im2sp.errors import BundleError
from im2sp.image.unit_table import UnitTable
from tests.cli.test_commands import call, sentence
from tests.collections.sources import picture, rows_of, write_photos, write_tar
from tests.collections.waiting import GO_ON, MADE, WaitingWork, meeting_place

SHARDS, SHARD = 6, 12
TWO = Workers(2)
NOTES = [f"{step} {row}" for row in range(MADE + 1) for step in ("read", "make")]  # until a worker waits
PATIENCE = 300  # seconds for a worker to start, on a machine that is very busy


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """One cluster for all tests here, with room for two workers."""
    with cluster(TWO):
        yield


@pytest.fixture(scope="module")
def voice(tiny_bundle: Path) -> CaptionerConfig:
    return CaptionerConfig(str(tiny_bundle), threads=1)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Photos, one of them bad."""
    folder = write_photos(tmp_path_factory.mktemp("collection"), SHARDS * SHARD - 1)
    (folder / "bad.png").write_text("no picture")
    return plan_shards([folder], Reading(shard=SHARD))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, plan: Plan, voice: CaptionerConfig) -> Path:
    """What one worker makes."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    results = list(make_captions(plan, out, voice))
    assert sorted(results, key=lambda result: result.number) == [
        ShardResult(number, SHARD, int(number == SHARDS - 1)) for number in range(SHARDS)
    ]
    return out


def shard_files(out: Path) -> dict[str, bytes]:
    """Everything in the folder but the lock and what was being made."""
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}


def kill_one(out: Path) -> list[str]:
    """Kill the first worker that waits in the middle of a shard, let the others go on; what it noted of the shard."""
    place, given_up = meeting_place(out), time.monotonic() + PATIENCE
    while not (waiting := [path for path in place.iterdir() if path.name.isdecimal()]):
        assert time.monotonic() < given_up, "no worker came"
        time.sleep(0.01)
    process, shard = int(waiting[0].name), int(waiting[0].read_text())
    os.kill(process, signal.SIGKILL)
    while Path(f"/proc/{process}/cmdline").exists() and Path(f"/proc/{process}/cmdline").read_bytes():
        time.sleep(0.01)
    noted = (out / f".shard-{shard:06d}.attempts").read_text().splitlines()
    (place / GO_ON).touch()
    return noted


def test_a_killed_worker_costs_no_photo_and_doubles_none(
    tmp_path: Path, plan: Plan, voice: CaptionerConfig, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    meeting_place(out).mkdir()
    monkeypatch.setattr(running, "Work", WaitingWork)
    with ThreadPoolExecutor(1) as pool:
        noted = pool.submit(kill_one, out)
        results = list(make_captions(plan, out, voice, TWO))
    assert noted.result() == [f"start {noted.result()[0].split()[1]}", *NOTES]
    assert not any(result.skipped for result in results)
    assert sorted(result.number for result in results) == list(range(SHARDS))
    rows, expected = (rows_of(*sorted(folder.glob("captions-*.parquet"))) for folder in (out, undisturbed))
    assert len({row["image_id"] for row in rows}) == len(rows) == SHARDS * SHARD
    assert rows == expected
    assert shard_files(out) == shard_files(undisturbed)
    assert sorted(os.listdir(out)) == sorted([".im2sp.lock", *shard_files(undisturbed)])


def test_a_stopped_run_goes_on_with_the_missing_shards(
    tmp_path: Path, plan: Plan, voice: CaptionerConfig, undisturbed: Path
) -> None:
    out = tmp_path / "out"
    with closing(make_captions(plan, out, voice)) as results:
        first = next(results)
    assert not first.skipped
    assert not (out / "SHA256SUMS").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    again = list(make_captions(plan, out, voice))
    assert sorted(result.number for result in again) == list(range(SHARDS))
    assert first.number in {result.number for result in again if result.skipped}
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert shard_files(out) == shard_files(undisturbed)
    assert all(result.skipped for result in make_captions(plan, out, voice))


def test_units_by_the_command(tmp_path: Path, unit_bundle: Path) -> None:
    tars = tmp_path / "tars"
    tars.mkdir()
    for number in range(2):
        write_tar(tars / f"{number}.tar", {f"{number}-{seed}.png": picture(seed) for seed in range(3)})
    write_tar(tars / "2.tar", {"bad.png": b"x"})
    out, spoken = tmp_path / "units", tmp_path / "spoken"
    options = ("--ray", "--model", unit_bundle, "--threads", 1)
    code, stdout, stderr = call("tokenize", tars, "-o", out, *options, "--workers", 2)
    assert (code, stdout) == (1, f"{out}: 6 photos tokenized, 1 failed\n")
    assert sentence(stderr) == f"1 failed: the column error of {out}/errors-*.parquet says why"
    ids = [image_id for path in sorted(out.glob("units-*.parquet")) for image_id, _ in UnitTable.open(path)]
    assert ids == [f"{number}-{seed}.png" for number in range(2) for seed in range(3)]
    code, stdout, stderr = call("caption", out, "-o", spoken, *options, "--shard", 2)
    assert (code, stdout, stderr) == (0, f"{spoken}: 6 photos spoken\n", "")
    assert [row["image_id"] for row in rows_of(*sorted(spoken.glob("captions-*.parquet")))] == ids
    code, stdout, stderr = call("caption", out, "-o", spoken, *options, "--shard", 2)
    assert (code, stdout, stderr) == (0, f"{spoken}: 0 photos spoken, 6 skipped (spoken before)\n", "")
    code, _, stderr = call("caption", out, "-o", spoken, *options, "--shard", 3)
    assert code == 1
    assert "was begun with other photos or another size of shards" in sentence(stderr)


def test_what_ends_the_run_is_one_sentence(tmp_path: Path, plan: Plan, unit_bundle: Path, tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="has no image units"):
        make_units(plan, tmp_path / "out", CaptionerConfig(str(tiny_bundle), 1))
    code, _, stderr = call("caption", tmp_path, "-o", tmp_path / "out", "--ray", "--model", "nowhere")
    assert code == 1
    assert re.search("nowhere", sentence(stderr))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--shard", "5"], "--shard: only has a meaning with --ray"),
        (["--fetch-urls"], "--fetch-urls: only has a meaning with --ray"),
        (["--ray", "--private-addresses"], "only has a meaning with --fetch-urls"),
        (["--ray", "--play"], "what Ray makes goes to a folder"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: list[str], part: str) -> None:
    code, _, stderr = call("caption", tmp_path, "-o", tmp_path / "out", *options)
    assert code == 2
    assert part in " ".join(stderr.replace("│", "").split())


def test_what_a_failed_start_has_begun_is_ended(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen([*words, tmp_path / "im2sp-1" / "raylet"]) as ours, subprocess.Popen(words) as other:
        _end_processes_of(str(tmp_path / "im2sp-1"))
        assert ours.wait() == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_ray_is_loaded_only_when_it_is_used() -> None:
    script = "import sys, im2sp.cli, im2sp.collections.running; print('ray' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_without_ray(tmp_path: Path, tiny_bundle: Path) -> None:
    write_photos(tmp_path / "in", 1)
    words = ["caption", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--ray", "--model", str(tiny_bundle)]
    script = f"import sys; sys.modules['ray'] = None; sys.argv[1:] = {words!r}; from im2sp.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "collections on Ray need ray: pip install 'im2sp[ray]'\n")
    assert not (tmp_path / "out").exists()
