"""A batch goes through whatever it meets, records what it did, and goes on where it stopped."""

from __future__ import annotations

import errno
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

from im2sp.batch import CaptionerConfig, Result, caption_live, caption_photos
from im2sp.bundle import write_checksums
from im2sp.captioner import Captioner
from im2sp.errors import BundleError, Im2SpError, OutputError
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
    tiny = tmp_path / "in" / "tiny.png"
    Image.new("RGB", (1, 1)).save(tiny)
    empty, text, missing = tmp_path / "in" / "empty.jpg", tmp_path / "in" / "text.jpg", tmp_path / "in" / "missing.jpg"
    empty.touch()
    text.write_text("not a picture")
    return [good[0], empty, *good[1:], text, missing, tiny]


def run(photos: list[Path], out: Path, bundle: Path, workers: int = 1, **decoding: float) -> list[Result]:
    voice = CaptionerConfig(str(bundle), threads=1, decoding=tuple(decoding.items()))
    with open_manifest(out) as manifest:
        return list(caption_photos(photos, manifest, voice, workers))


def records(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / CAPTIONS).read_text().splitlines()]


def consistent(out: Path) -> list[dict[str, object]]:
    """The records, each with its whole wav, and nothing left over."""
    found = records(out)
    for record in found:
        assert len(read_audio(out / str(record["wav"]))) == sum(record["durations"]) * HOP  # type: ignore[arg-type]
        assert len(record["units"]) == len(record["durations"])  # type: ignore[arg-type]
    assert not [name for name in os.listdir(out) if name.endswith(".part")]
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_the_good_are_spoken_and_the_bad_named(
    workers: int, photos: list[Path], tmp_path: Path, tiny_bundle: Path
) -> None:
    out = tmp_path / "out"
    results = run(photos, out, tiny_bundle, workers)
    errors = {result.photo.name: result.error for result in results if result.error}
    assert set(errors) == {"empty.jpg", "text.jpg", "missing.jpg"}
    assert all(str(tmp_path / "in" / name) in str(error) for name, error in errors.items())
    found = consistent(out)
    assert {record["image"] for record in found} == {str(photo) for photo in photos if photo.name not in errors}
    assert sorted(result.row.wav for result in results if result.row) == sorted(
        name for name in os.listdir(out) if name.endswith(".wav")
    )
    if workers == 1:
        assert [result.photo for result in results] == photos


def test_a_record_is_what_the_captioner_says(tmp_path: Path, tiny_bundle: Path) -> None:
    photo = picture(tmp_path / "a.png")
    (result,) = run([photo], tmp_path / "out", tiny_bundle)
    caption = Captioner.from_pretrained(tiny_bundle).caption(photo)
    assert result.row is not None
    assert result.row.units == caption.units.tolist()
    assert result.row.durations == caption.durations.tolist()
    assert result.row.score == pytest.approx(caption.score, abs=1e-3)
    spoken = read_audio(tmp_path / "out" / "a.wav")
    assert np.abs(spoken - caption.waveform).max() < 1e-4


def test_workers_and_order_change_nothing(photos: list[Path], tmp_path: Path, tiny_bundle: Path) -> None:
    options = {"temperature": 0.9, "seed": 7}
    run(photos, tmp_path / "one", tiny_bundle, **options)
    run(photos, tmp_path / "two", tiny_bundle, workers=2, **options)
    wavs = sorted(path.name for path in (tmp_path / "one").glob("*.wav"))
    assert wavs == sorted(path.name for path in (tmp_path / "two").glob("*.wav"))
    assert len(wavs) == 5
    for name in wavs:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_it_goes_on_where_it_stopped(photos: list[Path], tmp_path: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "out"
    with open_manifest(out) as manifest:
        results = caption_photos(photos, manifest, CaptionerConfig(str(tiny_bundle)))
        for _ in range(3):
            next(results)
        results.close()
    assert [record["wav"] for record in records(out)] == ["a.wav", "b.wav"]
    (out / "b.wav").unlink()  # on record, but gone
    before = (out / "a.wav").stat().st_mtime_ns
    outcomes_again = run(photos, out, tiny_bundle)
    assert [result.photo for result in outcomes_again if result.skipped] == [photos[0]]
    assert (out / "a.wav").stat().st_mtime_ns == before
    assert len({record["image"] for record in consistent(out)}) == 5
    assert sum(result.skipped for result in run(photos, out, tiny_bundle)) == 5


def test_a_wav_without_record_is_spoken_again(tmp_path: Path, tiny_bundle: Path) -> None:
    photo, out = picture(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    (out / "a.wav").write_bytes(b"half")
    (result,) = run([photo], out, tiny_bundle)
    assert not result.skipped
    assert len(consistent(out)) == 1


def test_photos_are_taken_one_by_one(tmp_path: Path, tiny_bundle: Path) -> None:
    asked = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal asked
        while True:
            asked += 1
            yield picture(tmp_path / f"{asked}.png", asked)

    with open_manifest(tmp_path / "out") as manifest:
        results = caption_photos(endless(), manifest, CaptionerConfig(str(tiny_bundle)))
        for _ in range(3):
            next(results)
        results.close()
    assert asked == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_bundle_is_said_once(workers: int, photos: list[Path], tmp_path: Path, tiny_bundle: Path) -> None:
    broken = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, broken)
    (broken / "decoder.onnx").write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=r"decoder\.onnx"):
        run(photos, tmp_path / "out", broken, workers)
    assert records(tmp_path / "out") == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_graph_that_is_none_is_said_once(workers: int, photos: list[Path], tmp_path: Path, tiny_bundle: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    (bundle / "vocoder.onnx").write_bytes(b"not a graph")
    write_checksums(bundle)
    with pytest.raises(BundleError, match=r"^vocoder\.onnx of the bundle .* cannot be opened"):
        run(photos, tmp_path / "out", bundle, workers)
    assert records(tmp_path / "out") == []
    asked = iter(photos)
    with pytest.raises(BundleError, match=r"^vocoder\.onnx"):
        next(caption_live(asked, CaptionerConfig(str(bundle), threads=1)))
    assert next(asked) == photos[0]  # it was said before the first photo was asked for


def test_options_out_of_range(tmp_path: Path, tiny_bundle: Path) -> None:
    with pytest.raises(Im2SpError, match="beam is 0"):
        run([picture(tmp_path / "a.png")], tmp_path / "out", tiny_bundle, beam=0)


def test_a_full_disk_ends_the_run(
    photos: list[Path], tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = 0

    def full(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        if synced > 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"b\.wav: cannot be written \(the disk is full"):
        run(photos, tmp_path / "out", tiny_bundle)
    assert [record["wav"] for record in consistent(tmp_path / "out")] == ["a.wav"]
    monkeypatch.undo()
    run(photos, tmp_path / "out", tiny_bundle)
    assert len(consistent(tmp_path / "out")) == 5


def test_a_defect_does_not_stop_the_others(
    photos: list[Path],
    tmp_path: Path,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def defective(self: Captioner, image: Path, options: object = None) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(Captioner, "caption", defective)
    monkeypatch.delenv("IM2SP_DEBUG", raising=False)
    results = run(photos[:2], tmp_path / "out", tiny_bundle)
    assert [result.error for result in results] == [
        f"{photo}: unexpected ZeroDivisionError (of all things); set IM2SP_DEBUG=1 to see where, and please report it"
        for photo in photos[:2]
    ]
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("IM2SP_DEBUG", "1")
    run(photos[:1], tmp_path / "out", tiny_bundle)
    assert "Traceback" in capsys.readouterr().err


def test_threads_are_shared_out() -> None:
    assert CaptionerConfig(threads=3).for_workers(4).threads == 3
    assert CaptionerConfig().for_workers(1).threads == 0
    assert CaptionerConfig().for_workers(1000).threads == 1


# ---- runs that are ended from outside ----


Start = Callable[[Path, Path, Path, int], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the real command in a session of its own, as a shell would; nothing of it outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def run_command(folder: Path, out: Path, bundle: Path, workers: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "im2sp", "caption", str(folder), "-o", str(out)]
        command += ["--model", str(bundle), "--threads", "1", "--workers", str(workers)]
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


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lines_written(out: Path) -> int:
    return (out / CAPTIONS).read_bytes().count(b"\n") if (out / CAPTIONS).exists() else 0


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for seed in range(120):
        picture(tmp_path / "many" / f"{seed}.png", seed)
    return tmp_path / "many"


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_a_consistent_state(
    workers: int, start: Start, many: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    out = tmp_path / "out"
    process = start(many, out, tiny_bundle, workers)
    until(lambda: lines_written(out) >= 3, process)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of them
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, (stdout, stderr)
    assert "Traceback" not in stderr
    assert "run the same command again to go on" in stderr
    done = len(consistent(out))
    assert 3 <= done < 120
    assert f"{done} photos spoken" in stderr
    again = start(many, out, tiny_bundle, 1)
    stdout, stderr = again.communicate(timeout=120)
    assert (again.returncode, stderr) == (0, "")
    assert f"{120 - done} photos spoken, {done} skipped" in stdout
    assert len(consistent(out)) == 120


def children(process: subprocess.Popen[str]) -> list[int]:
    """Worker processes (Linux)."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = [int(pid) for pid in listed.read_text().split()] if listed.exists() else []
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the workers in /proc")
def test_workers_do_not_outlive_a_killed_run(start: Start, many: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "out"
    process = start(many, out, tiny_bundle, 2)
    until(lambda: lines_written(out) >= 3 and len(children(process)) == 2, process)
    workers = children(process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while not all(map(ended, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with open_manifest(out):  # neither locked nor torn; sweeps what was half written
        assert len(consistent(out)) >= 3


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the workers in /proc")
def test_a_worker_that_dies_is_a_sentence(start: Start, many: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "out"
    process = start(many, out, tiny_bundle, 2)
    until(lambda: lines_written(out) >= 3 and len(children(process)) == 2, process)
    os.kill(children(process)[0], signal.SIGKILL)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "a worker process was ended from outside" in stderr
    assert "Traceback" not in stderr
    with open_manifest(out):
        assert len(consistent(out)) >= 3
