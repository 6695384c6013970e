"""A batch goes through whatever it meets, records what it did, and continues where it stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from im2sp.batch import CaptionerConfig, Result, caption_photos
from im2sp.bundle import write_checksums
from im2sp.captioner import Captioner
from im2sp.errors import BundleError
from im2sp.manifest import CAPTIONS, open_manifest
from im2sp.speech.audio import HOP, read_audio


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Five photos, two of one stem, and three that are none."""
    good = [picture(tmp_path / "in" / name, seed) for seed, name in enumerate(("a.jpg", "b.png", "x/a.jpg", "x/c.gif"))]
    tiny, empty, text, missing = (tmp_path / "in" / name for name in ("tiny.png", "empty.jpg", "text.jpg", "none.jpg"))
    Image.new("RGB", (1, 1)).save(tiny)
    empty.touch()
    text.write_text("not a picture")
    return [good[0], empty, *good[1:], text, missing, tiny]


def run(photos: list[Path], out: Path, bundle: Path, workers: int = 1, **decoding: float) -> list[Result]:
    config = CaptionerConfig(str(bundle), threads=1, decoding=tuple(decoding.items()))
    with open_manifest(out) as manifest:
        return list(caption_photos(photos, config, manifest, workers=workers))


def complete_rows(out: Path) -> list[dict[str, object]]:
    """Return the rows, each with its whole wav, and nothing left over."""
    rows = [json.loads(line) for line in (out / CAPTIONS).read_text().splitlines()]
    for row in rows:
        assert len(read_audio(out / row["wav"])) == sum(row["durations"]) * HOP
        assert len(row["units"]) == len(row["durations"])
    assert not [name for name in os.listdir(out) if name.endswith(".part")]
    return rows


@pytest.mark.parametrize("workers", [1, 2])
def test_good_photos_are_captioned_and_bad_ones_named(
    workers: int, photos: list[Path], tmp_path: Path, tiny_bundle: Path
) -> None:
    out = tmp_path / "out"
    results = run(photos, out, tiny_bundle, workers)
    errors = {result.photo.name: result.error for result in results if result.error}
    assert set(errors) == {"empty.jpg", "text.jpg", "none.jpg"}
    assert all(str(tmp_path / "in" / name) in str(error) for name, error in errors.items())
    assert {row["image"] for row in complete_rows(out)} == {str(path) for path in photos if path.name not in errors}
    assert sorted(result.row.wav for result in results if result.row) == sorted(path.name for path in out.glob("*.wav"))
    assert {result.photo for result in results} == set(photos)
    caption = Captioner.from_pretrained(tiny_bundle).caption(photos[0])
    row = next(result.row for result in results if result.photo == photos[0])
    assert row is not None
    assert (row.units, row.durations) == (caption.units.tolist(), caption.durations.tolist())
    assert row.score == pytest.approx(caption.score, abs=1e-3)
    assert np.abs(read_audio(out / row.wav) - caption.waveform).max() < 1e-4


def test_it_continues_where_it_stopped(photos: list[Path], tmp_path: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "out"
    with open_manifest(out) as manifest:
        results = caption_photos(photos, CaptionerConfig(str(tiny_bundle)), manifest)
        for _ in range(3):
            next(results)
        results.close()
    assert [row["wav"] for row in complete_rows(out)] == ["a.wav", "b.wav"]
    (out / "b.wav").unlink()  # recorded, but gone
    (out / "c.wav").write_bytes(b"half")  # there, but not recorded
    before = (out / "a.wav").stat().st_mtime_ns
    assert [result.photo for result in run(photos, out, tiny_bundle) if result.skipped] == [photos[0]]
    assert (out / "a.wav").stat().st_mtime_ns == before
    assert len({row["image"] for row in complete_rows(out)}) == 5
    assert sum(result.skipped for result in run(photos, out, tiny_bundle)) == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_bundle_is_said_once(workers: int, photos: list[Path], tmp_path: Path, tiny_bundle: Path) -> None:
    bundle, error = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle")), r"^vocoder\.onnx .* cannot be opened"
    (bundle / "vocoder.onnx").write_bytes(b"not a graph")
    write_checksums(bundle)
    with pytest.raises(BundleError, match=error):
        run(photos, tmp_path / "out", bundle, workers)
    assert complete_rows(tmp_path / "out") == []
    asked = iter(photos)
    with pytest.raises(BundleError, match=error):
        next(caption_photos(asked, CaptionerConfig(str(bundle), threads=1), force=True))
    assert next(asked) == photos[0]  # raised before the first photo was asked for


def test_a_defect_does_not_stop_the_others(
    photos: list[Path],
    tmp_path: Path,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def defective(self: Captioner, image: Path, options: object = None) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(Captioner, "caption", defective)
    monkeypatch.delenv("IM2SP_DEBUG", raising=False)
    assert [result.error for result in run(photos[:2], tmp_path / "out", tiny_bundle)] == [
        f"{photo}: unexpected ZeroDivisionError (of all things); set IM2SP_DEBUG=1 to see where, and please report it"
        for photo in photos[:2]
    ]


# ---- runs that are ended from outside ----


Start = Callable[[int], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, tiny_bundle: Path) -> Iterator[Start]:
    """Start the real command on 120 photos, in a session of its own, as a shell would; nothing outlives the test."""
    for seed in range(120):
        picture(tmp_path / "many" / f"{seed}.png", seed)
    started: list[subprocess.Popen[str]] = []

    def run_command(workers: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "im2sp", "caption", str(tmp_path / "many"), "-o", str(tmp_path / "out")]
        command += ["--model", str(tiny_bundle), "--threads", "1", "--workers", str(workers)]
        pipe = subprocess.PIPE
        # A test run that was itself started in the background ignores interrupts, and children inherit that.
        ignored = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        finally:
            signal.signal(signal.SIGINT, ignored)
        return started[-1]

    yield run_command
    for process in started:
        process.kill()
        process.communicate()


def children(process: subprocess.Popen[str]) -> list[int]:
    """Return the worker processes (Linux)."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = [int(pid) for pid in listed.read_text().split()] if listed.exists() else []
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def wait_for_rows(process: subprocess.Popen[str], out: Path, workers: int = 0) -> None:
    path = out / CAPTIONS
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= 3, process)
    wait_until(lambda: len(children(process)) >= workers, process)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_a_consistent_state(workers: int, start: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(workers)
    wait_for_rows(process, out)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of them
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, (stdout, stderr)
    done = len(complete_rows(out))
    assert 3 <= done < 120
    assert stderr == f"stopped: {done} photos spoken; run the same command again to go on\n"
    again = start(1)
    stdout, stderr = again.communicate(timeout=120)
    assert (again.returncode, stderr) == (0, "")
    assert f"{120 - done} photos spoken, {done} skipped" in stdout
    assert len(complete_rows(out)) == 120


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the workers in /proc")
@pytest.mark.parametrize("killed", ["run", "worker"])
def test_a_process_that_is_killed(killed: str, start: Start, tmp_path: Path) -> None:
    process = start(2)
    wait_for_rows(process, tmp_path / "out", workers=2)
    workers = children(process)
    os.kill(process.pid if killed == "run" else workers[0], signal.SIGKILL)
    stderr = process.communicate(timeout=60)[1]
    if killed == "worker":
        assert process.returncode == 1
        assert stderr.startswith("a worker process was ended from outside, perhaps for want of memory")
        assert stderr.count("\n") == 1
    wait_until(lambda: all(map(ended, workers)))
    with open_manifest(tmp_path / "out"):  # neither locked nor torn; removes what was half written
        assert len(complete_rows(tmp_path / "out")) >= 3


def test_what_changed_is_captioned_again(tmp_path: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "out"
    photos = [picture(tmp_path / "in" / name, seed) for seed, name in enumerate(("a.png", "b.png"))]
    other = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, other)

    def again(bundle: Path = tiny_bundle, **options: float) -> list[str]:
        return [result.photo.name for result in run(photos, out, bundle, **options) if not result.skipped]

    assert again() == ["a.png", "b.png"]
    assert again(other) == []  # the same files at another place
    picture(photos[0], 7)
    assert again() == ["a.png"]
    assert again(beam=2) == ["a.png", "b.png"]
    assert again(beam=2) == []
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"description": "trained anew"}))
    write_checksums(other)
    assert again(other, beam=2) == ["a.png", "b.png"]
    with open_manifest(out) as manifest:
        forced = list(caption_photos(photos, CaptionerConfig(str(other)), manifest, force=True))
    assert not any(result.skipped for result in forced)
    assert sorted(path.name for path in out.glob("*.wav")) == ["a.wav", "b.wav"]


def test_a_link_in_the_output_folder_leads_nowhere_else(tmp_path: Path, tiny_bundle: Path) -> None:
    photo, outside = picture(tmp_path / "a.png"), tmp_path / "outside.wav"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.wav").symlink_to(outside)
    run([photo], tmp_path / "out", tiny_bundle)
    assert not outside.exists()
    assert len(complete_rows(tmp_path / "out")) == 1
