"""Benchmarks: one sentence where an input is missing; a listening test from clips to opinion scores."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / str(words[0])), *map(str, words[1:])]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("cascade.py none.jpg", "none.jpg: cannot be read (there is no such file)"),
        ("load_test.py --model none", "there is no bundle 'none'"),
        ("full_size.py --tokens 0", "give a whole number from 1 on, not 0"),
        ("listening_test.py page none -o page.html", "none holds no wavs"),
        ("listening_test.py score none.json", "none.json cannot be read: there is no such file"),
    ],
)
def test_a_missing_input_is_one_sentence(words: str, sentence: str) -> None:
    result = run(*words.split())
    assert result.returncode > 0
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_listeners_answers_become_opinion_scores(tmp_path: Path) -> None:
    clips = [f"{system}/{number}.wav" for system in ("ours", "theirs") for number in range(3)]
    for clip in clips:
        (tmp_path / clip).parent.mkdir(exist_ok=True)
        (tmp_path / clip).write_bytes(b"</script>" + clip.encode())
    assert "6 clips" in run("listening_test.py", "page", tmp_path, "-o", tmp_path / "page.html").stdout
    page = (tmp_path / "page.html").read_text()
    listed = re.search(r'<script type="application/json" id="clips">(.*?)</script>', page)
    assert listed is not None
    assert [clip["id"] for clip in json.loads(listed[1])["clips"]] == clips
    answers = []
    for listener in range(4):
        given = {clip: 2 + (listener + number) % 3 for number, clip in enumerate(clips) if listener or number}
        answers.append(tmp_path / f"{listener}.json")
        answers[-1].write_text(json.dumps({"listener": str(listener), "answers": given}))
    ours, theirs = run("listening_test.py", "score", *answers).stdout.splitlines()
    assert theirs.endswith("3 clips, 4 listeners, 12 ratings")
    mean, low, high = map(float, re.findall(r"\d\.\d\d", ours))
    assert mean == pytest.approx((33 + 1) / 11, abs=0.3)
    assert 2 <= low < mean < high <= 4
    answers[0].write_text(json.dumps({"listener": "a", "answers": {"ours/0.wav": 9}}))
    assert "gives ours/0.wav the score 9: scores are 1 to 5" in run("listening_test.py", "score", answers[0]).stderr
