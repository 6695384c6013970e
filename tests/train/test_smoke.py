"""`im2sp train`: tiny recipes of every kind run from end to end; what it lists and refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from im2sp.errors import Im2SpError
from im2sp.train.cli import train

VOICE = 'recipe = "voice"\ndata = "."\nruns = "runs"\n'


def test_every_kind_runs_from_end_to_end(tmp_path: Path) -> None:
    result = CliRunner().invoke(train, ["--smoke", "--runs", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_stages_are_listed(tmp_path: Path) -> None:
    (tmp_path / "voice.toml").write_text(VOICE)
    result = CliRunner().invoke(train, [str(tmp_path / "voice.toml"), "--runs", str(tmp_path), "--list"])
    assert [line.split()[:3] for line in result.output.splitlines()] == [
        ["recordings", "to", "do"], ["hubert", "to", "do"], ["quantize", "to", "do"], ["durations", "to", "do"],
        ["vocoder", "to", "do"],
    ]  # fmt: skip


def test_a_recipe_or_smoke() -> None:
    assert CliRunner().invoke(train, []).exit_code == 2
    assert CliRunner().invoke(train, ["recipe.toml", "--smoke"]).exit_code == 2
    result = CliRunner().invoke(train, ["none.toml"])
    assert isinstance(result.exception, Im2SpError)


def test_help_loads_no_torch() -> None:
    help_of_train = "from im2sp.train.cli import train; train(['--help'], standalone_mode=False)"
    code = f"import sys; {help_of_train}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
