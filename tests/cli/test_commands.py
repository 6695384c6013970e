"""What commands do beyond the table of test_behaviour: files, playback, interrupts, real processes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from im2sp.cli import app
from im2sp.manifest import CAPTIONS
from im2sp.speech.audio import read_audio
from tests.test_playback import FAKE, heard, use_device


def call(*arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert "Traceback" not in result.stderr
    return result.exit_code, result.stdout, result.stderr


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "im2sp", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def sentence(stderr: str) -> str:
    """The only line on stderr."""
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1, stderr
    return stderr.rstrip("\n")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_write_that_really_fails(photo: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    """The system itself refuses in the middle of the wav, in a real process."""
    done = command(
        *("caption", photo, "-o", tmp_path / "out", "--model", tiny_bundle),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)),
    )
    assert done.returncode == 1
    assert sentence(done.stderr) == f"{tmp_path / 'out' / 'photo.wav'}: cannot be written (file too large)"
    assert [path.suffix for path in (tmp_path / "out").iterdir() if path.suffix in (".wav", ".part")] == []


def test_a_photo_alone(photo: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aloud where there is a device, else into a file that replaces nothing."""
    monkeypatch.chdir(tmp_path)
    use_device(monkeypatch, str(tmp_path / "heard"))
    code, stdout, stderr = call("caption", photo, "--model", tiny_bundle)
    assert (code, stderr, stdout.startswith(f"{photo}: ")) == (0, "", True)
    assert len(heard(tmp_path / "heard")) > 0
    assert not list(tmp_path.glob("*.wav"))
    use_device(monkeypatch, "none")
    for name in ("photo.wav", "photo-2.wav"):
        code, stdout, stderr = call("caption", photo, "--model", tiny_bundle)
        assert (code, stdout.startswith(f"{name}: ")) == (0, True)
        assert sentence(stderr).startswith(f"written to {name}, as there is no device to play on")
        assert len(read_audio(tmp_path / name)) > 0


def test_a_line_of_json_for_each_photo(
    photo: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recogniser:
        def __init__(self, language: str, threads: int) -> None:
            pass

        def text(self, waveform: np.ndarray) -> str:
            return f"{len(waveform)} samples"

        @staticmethod
        def is_installed() -> bool:
            return True

    monkeypatch.setattr("im2sp.batch.WordRecogniser", Recogniser)
    monkeypatch.setattr("im2sp.speech.whisper.WordRecogniser", Recogniser)
    words = ("caption", photo, tmp_path / "none.jpg", "-o", tmp_path / "out", "--model", tiny_bundle, "--json")
    code, stdout, stderr = call(*words)
    said, failed = map(json.loads, stdout.splitlines())
    wav = tmp_path / "out" / "photo.wav"
    assert (code, said["wav"], said["heard"]) == (1, str(wav), f"{len(read_audio(wav))} samples")
    assert failed == {"image": str(tmp_path / "none.jpg"), "error": stderr.splitlines()[0]}
    recorded = json.loads((tmp_path / "out" / CAPTIONS).read_text())
    assert recorded == recorded | said | {"wav": "photo.wav"}
    assert json.loads(call(*words)[1].splitlines()[0]) == {"image": str(photo), "skipped": True}
    plain = call("caption", photo, "-o", tmp_path / "plain", "--model", tiny_bundle, "--words")[1]
    assert plain.endswith(' samples"\n')


def test_completion() -> None:
    words = {"COMP_WORDS": "im2sp cap", "COMP_CWORD": "1"}
    environment = {**os.environ, "_IM2SP_COMPLETE": "bash_complete", **words}
    done = subprocess.run(
        [sys.executable, "-c", "from im2sp.cli import main; main()"], capture_output=True, text=True, env=environment
    )
    assert "plain,caption" in done.stdout


def test_aloud_and_on_record(photo: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_device(monkeypatch, str(tmp_path / "heard"))
    out, lengths = tmp_path / "out", []
    for _ in range(2):  # what is on record is heard again
        arguments = ("caption", photo, tmp_path / "none.jpg", "--play", "-o", out, "--beam", 2, "--model", tiny_bundle)
        code, stdout, stderr = call(*arguments)
        assert code == 1
        assert stdout == f"{out}: 1 photo spoken, 1 failed\n"
        assert stderr.startswith(f"{tmp_path / 'none.jpg'}: cannot be read")
        lengths.append(len(heard(tmp_path / "heard")))
    assert lengths == [len(read_audio(out / "photo.wav")), 2 * len(read_audio(out / "photo.wav"))]
    assert len((out / CAPTIONS).read_text().splitlines()) == 2


def test_no_device(photo: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_device(monkeypatch, "none")
    for arguments in (["caption", photo], ["watch", tmp_path]):
        code, stdout, stderr = call(*arguments, "--play", "-o", tmp_path / "out", "--model", tiny_bundle)
        assert (code, stdout) == (1, "")
        assert sentence(stderr).startswith("there is no device to play on")
    assert not (tmp_path / "out").exists()


def test_watching_a_folder(photo: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    """In a real process: a photo, a file that is none, another photo; then Ctrl-C."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    shutil.copy(photo, folder / "old.png")
    paths = os.pathsep.join([str(FAKE), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-m", "im2sp", "watch", str(folder), "--play", "-o", str(out), "--model", str(tiny_bundle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "IM2SP_DEVICE": str(tmp_path / "heard")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # also in a background run
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == f"{folder}: waiting for new photos until Ctrl-C\n"
    shutil.copy(photo, folder / "a.png")
    assert process.stdout.readline().startswith(f"{out / 'a.wav'}: ")
    (folder / "bad.png").write_bytes(photo.read_bytes()[:1000])
    assert process.stderr.readline().startswith(f"{folder / 'bad.png'}: is cut short")
    shutil.copy(photo, folder / "b.png")
    assert process.stdout.readline().startswith(f"{out / 'b.wav'}: ")
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "1 left out: damaged (1)\n")
    assert process.returncode == 1
    assert sorted(path.name for path in out.glob("*.wav")) == ["a.wav", "b.wav"]
    assert len(heard(tmp_path / "heard")) > 0


def test_a_reader_that_goes_away(tiny_bundle: Path) -> None:
    words = [sys.executable, "-m", "im2sp", "info", "--json", "--model", str(tiny_bundle)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()


def test_names_that_cannot_be_printed(photo: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    odd = photo.rename(tmp_path / "ph\udcffoto.png")
    done = command("caption", odd, "-o", tmp_path / "out", "--model", tiny_bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ph\\udcffoto.wav" in done.stdout
