"""Counts and the progress bar."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import click
import pytest

from im2sp.batch import Result
from im2sp.cli.console import progress
from im2sp.errors import Im2SpError

PHOTO = Path("a.png")
RESULTS = (Result(PHOTO), Result(PHOTO, skipped=True), Result(PHOTO, error="a.png: is empty"), Result(PHOTO))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [False, True])
def test_counts_and_failures(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with progress(4, "spoken") as counts:
        for result in RESULTS:
            counts.add(result)
    assert str(counts) == "2 photos spoken, 1 skipped (spoken before), 1 failed"
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    if terminal:
        assert all(part in shown for part in ("spoken", "4/4", "a.png: is empty"))
    else:
        assert shown == "a.png: is empty\n"


@pytest.mark.parametrize(
    ("error", "resumable", "sentence"),
    [
        (KeyboardInterrupt(), True, "stopped: 1 photo spoken; run the same command again to go on\n"),
        (KeyboardInterrupt(), False, "stopped: 1 photo spoken\n"),
        (Im2SpError("x.wav: cannot be written"), True, "x.wav: cannot be written (1 photo spoken)\n"),
    ],
)
def test_what_ends_it_comes_with_the_counts(
    error: BaseException, resumable: bool, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        with progress(2, "spoken", resumable=resumable) as counts:
            counts.add(RESULTS[0])
            raise error

    with pytest.raises(click.exceptions.Exit):
        interrupted()
    assert capsys.readouterr().err == sentence
