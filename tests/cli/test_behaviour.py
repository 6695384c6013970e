"""What each command answers: arguments -> exit code, stdout and stderr, as one table."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import im2sp
from im2sp.cli import app
from im2sp.speech.audio import SAMPLE_RATE, write_wav
from tests.test_playback import use_device
from tests.tiny_bundle import tiny_confidence, write_tiny_bundle


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that a row of the table names."""
    folder = tmp_path_factory.mktemp("files")
    write_tiny_bundle(folder / "bundle")
    write_tiny_bundle(folder / "calibrated", confidence=tiny_confidence())
    write_tiny_bundle(folder / "broken")
    (folder / "broken" / "vocoder.onnx").write_bytes(b"nonsense")
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(folder / "photo.png")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:1000])
    (folder / "empty").mkdir()
    (folder / "photos" / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "deep/a.png"):
        shutil.copy(folder / "photo.png", folder / "photos" / name)
    (folder / "mixed").mkdir()
    shutil.copy(folder / "photo.png", folder / "mixed" / "no-suffix")
    (folder / "mixed" / "a.jpg").write_bytes(b"<svg xmlns=/>")
    (folder / "mixed" / "b.jxl").write_bytes(b"\xff\x0a\0\0")
    (folder / "file").touch()
    (folder / "units.txt").write_text("12, 5 7\n7\n")
    (folder / "units.bin").write_bytes(b"\xff\xfe\x00")
    write_wav(folder / "speech.wav", np.random.default_rng(0).uniform(-0.3, 0.3, SAMPLE_RATE).astype(np.float32))
    return folder


SPOKEN = r"units, score -\d+\.\d+, made in \d+\.\d+ s\n"
USAGE = r"Usage: .*"
ONCE = [  # arguments, exit code, pattern of stdout, pattern of stderr
    ("", 2, "", USAGE),
    ("--help", 0, ".*caption.*", ""),
    ("--version", 0, f"im2sp {re.escape(im2sp.__version__)}\n", ""),
    ("nonsense", 2, "", USAGE),
    # ---- caption ----
    ("caption", 2, "", USAGE),
    ("caption -h", 0, ".*--rate.*", ""),
    ("caption photos", 2, "", ".*say where the speech goes: give --out, --play or both\n"),
    ("caption photo.png -q", 0, "", ""),
    ("caption cut.png", 1, "", "cut.png: is cut short; the file ends before the picture does\n"),
    ("caption photo.png --ray --json -o out", 2, "", ".*what Ray makes goes to tables in a folder.*"),
    ("caption photo.png -o out --rate 4", 2, "", USAGE),
    ("caption photo.png --play --workers 2", 2, "", ".*only one can speak aloud at a time.*"),
    ("caption photo.png -o out --beam 0", 2, "", USAGE),
    ("caption photo.png -o out --temperature 1 --beam 3", 2, "", ".*sampling knows no beam.*"),
    ("caption photo.png -o out --min-confidence 0.5 --always", 2, "", ".*give --always or --min-confidence.*"),
    ("caption photo.png -o new/out", 0, "new/out/photo.wav: .*" + SPOKEN, ""),
    ("caption photos -o out", 0, "out: 3 photos spoken\n", ""),
    ("caption none.jpg -o out", 1, "", r"none.jpg: cannot be read \(there is no such file\)\n"),
    ("caption '' -o out", 2, "", ".*it is empty; is a shell variable unset.*"),
    ("caption photo.png -o ''", 2, "", ".*it is empty; is a shell variable unset.*"),
    ("caption https://example.org/a.jpg -o out", 2, "", ".*addresses are not fetched.*"),
    ("caption photo.png -o out.wav", 0, "out.wav: .*" + SPOKEN, ""),
    ("caption photo.png -o out.pcm --raw", 2, "", ".*samples without a header go to one file.*"),
    ("caption photo.png -o out.mp3", 1, "", "out.mp3: only WAV is written; give a name that ends in .wav\n"),
    ("caption photos -o out.wav", 2, "", ".*one photo goes to one NAME.wav or -, several to a folder.*"),
    ("caption - -o out", 2, "", ".*one photo goes to one NAME.wav or -.*"),
    ("caption cut.png -o -", 1, "", "cut.png: is cut short.*\n"),
    ("caption mixed -o out", 1, "out: 1 photo spoken\n", r"2 left out: JPEG XL \(1\), SVG \(1\)\n"),
    ("caption cut.png -o out", 1, "", "cut.png: is cut short; the file ends before the picture does\n"),
    ("caption bomb.png -o out", 1, "", r"bomb.png: is too large \(the limit is 64 megapixels\); make it .*\n"),
    (
        "caption photos cut.png none.jpg -o out", 1, "out: 3 photos spoken, 2 failed\n",
        "cut.png: .*\nnone.jpg: .*\n2 of 5 photos could not be spoken\n",
    ),
    ("caption photos none.jpg -o out --workers 2", 1, "out: 3 photos spoken, 1 failed\n", "none.jpg: .*\n1 of 4 .*\n"),
    ("caption empty -o out", 1, "", "empty: holds no photos .*\n"),
    ("caption photo.png -o file", 1, "", r"file: cannot be written to \(.*\n"),
    ("caption photo.png -o out --model nowhere", 1, "", "there is no bundle .*\n"),
    ("caption photo.png -o out --model broken", 1, "", "vocoder.onnx .*\n"),
    ("caption photo.png -o out --min-confidence 0.5", 1, "", ".* has no calibrated confidence.*\n"),
    ("caption photo.png -o out --min-confidence 0.5 --workers 2", 1, "", ".* has no calibrated confidence.*\n"),
    (
        "caption photo.png -o out --model calibrated", 0,
        r"out/photo.wav: \d.* of captions like this, \d+ of 100 were right, .*\n", "",
    ),
    (
        "caption photo.png -o out --model calibrated --min-confidence 1", 0,
        r"out/photo.wav: cannot tell what it shows, 0\.5 s of speech, 4 units, .*\n", "",
    ),
    # ---- watch ----
    ("watch .", 2, "", ".*say where the speech goes.*"),
    ("watch photo.png -o out", 1, "", "photo.png: is not a folder that can be watched\n"),
    # ---- tokenize ----
    ("tokenize photos -o out.csv", 2, "", ".*the name of a table ends in .parquet\n"),
    ("tokenize photos -o out.parquet --workers 2", 2, "", ".*with --ray only.*"),
    ("tokenize photos -o out.parquet", 1, "", ".* has no image units.*\n"),
    ("tokenize empty -o out.parquet", 1, "", "empty: holds no photos .*\n"),
    ("reconstruct out.parquet -o out", 1, "", ".* has no image units.*\n"),
    # ---- speak ----
    ("speak 1", 2, "", USAGE),
    ("speak 12 5 7 7 -o out.wav", 0, r"out.wav: \d\.\d s of speech from 3 units\n", ""),
    ("speak @units.txt -o out.wav", 0, r"out.wav: .* from 3 units\n", ""),
    ("speak - -o out.wav", 0, r"out.wav: .* from 3 units\n", ""),  # see STDIN
    ("speak 12 5 7 -o out.mp3", 1, "", "out.mp3: only WAV is written; give a name that ends in .wav\n"),
    ("speak 12 5 7 -o out.wav --rate 2", 0, r"out.wav: .* from 3 units\n", ""),
    ("speak x -o out.wav", 1, "", "'x' is not a unit.*\n"),
    ("speak 99 -o out.wav", 1, "", "unit 99 does not exist.*\n"),
    ("speak @none.txt -o out.wav", 1, "", "none.txt: there is no such file\n"),
    ("speak @units.bin -o out.wav", 1, "", "units.bin: is not a text of units\n"),
    ("speak 1 -o file/x.wav", 1, "", r"file/x.wav: cannot be written \(.*\n"),
    # ---- units ----
    ("units speech.wav", 0, r"\d+( \d+)*\n", ""),
    ("units speech.wav --keep-repeats", 0, r"\d+( \d+){48}\n", ""),
    ("units speech.wav --json", 0, r'\{"speech": "speech.wav", "unit_rate": 50, "units": \[.*\], "durations": .*', ""),
    ("units none.wav", 1, "", r"none.wav: cannot be read \(there is no such file\)\n"),
    # ---- info ----
    ("info", 0, ".*tiny 0.0.1.*Apache-2.0.*20 units.*not calibrated.*12,345.*vocoder.onnx.*", ""),
    ("info --model calibrated", 0, r".*--min-confidence\s+0\.25.*", ""),
    ("info --model nowhere", 1, "", "there is no bundle .*\n"),
]  # fmt: skip
STDIN = "12 5 7 7\n"


def call(arguments: str) -> tuple[int, str, str]:
    """Run a command in the current folder, with the tiny bundle unless another is named."""
    words = shlex.split(arguments)
    if words and not words[0].startswith("-") and "--model" not in words and words[0] != "nonsense":
        words += ["--model", "bundle"]
    result = CliRunner().invoke(app, words, input=STDIN)
    return result.exit_code, result.stdout, result.stderr


def is_like(pattern: str, text: str) -> bool:
    """Whether the whole text matches; without a line break in the pattern of a text, lines are not told apart."""
    return re.fullmatch(pattern, text, re.DOTALL) is not None


@pytest.mark.parametrize(("arguments", "code", "stdout", "stderr"), ONCE, ids=[row[0] or "nothing" for row in ONCE])
def test_answers(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, code: int, stdout: str, stderr: str
) -> None:
    for path in files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    use_device(monkeypatch, "none")
    before = set(tmp_path.iterdir())
    answer = call(arguments)
    assert answer[0] == code, answer
    assert is_like(stdout, answer[1]), answer[1]
    assert is_like(stderr, answer[2]), answer[2]
    if code == 1 and not answer[1]:  # what fails leaves nothing behind
        left = [path for place in set(tmp_path.iterdir()) - before for path in (place, *place.rglob("*"))]
        assert not [path for path in left if path.is_file() and path.suffix != ".jsonl" and path.stat().st_size]
