"""Every stage of the recipe, end to end, on a dozen generated pictures; then the bundle speaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from im2sp import Captioner
from im2sp.train.cli import STAGES

ROOT = Path(__file__).parents[2]


def _lab(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = "import sys; sys.argv[0] = 'im2sp-lab'; from im2sp.train.cli import main; main()"
    places = ["--data", str(folder / "data"), "--runs", str(folder / "runs")]
    recipe = ["--recipe", str(ROOT / "recipes/flickr8k/recipe.toml")]
    return subprocess.run(
        [sys.executable, "-c", command, *arguments, "--smoke", *recipe, *places],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_recipe_from_raw_data_to_a_bundle_that_speaks(tmp_path: Path) -> None:
    done = _lab("all", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = tmp_path / "runs"
    report = json.loads((runs / "evaluation" / "report.json").read_text())
    assert report["captions"]["photos"] == 3
    assert {"original", "true_durations", "predicted_durations"} <= set(report["word_error_rates"])
    assert json.loads((runs / "hubert" / "layers.json").read_text())["best_layer"] in (1, 2)

    captioner = Captioner.from_pretrained(runs / "bundle")
    captioner.graphs.check()
    assert captioner.bundle.config.vocoder.duration_context is not None
    caption = captioner.caption(tmp_path / "data" / "Flicker8k_Dataset" / "red_circle.jpg")
    assert len(caption.waveform) == caption.durations.sum() * 320
    assert np.isfinite(caption.waveform).all()
    assert len(captioner.units(caption.waveform)) > 0

    again = _lab("all", folder=tmp_path)  # everything is there: nothing is trained, spoken or heard again
    assert again.returncode == 0, again.stderr[-3000:]
    assert " step 4 " not in again.stderr


def test_stages_are_the_ones_of_the_command_line() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", "from im2sp.train.cli import app; app(['--help'], standalone_mode=False)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(stage in listed for stage in (*STAGES, "all"))


def test_missing_input_is_one_sentence(tmp_path: Path) -> None:
    done = _lab("vocoder", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith("run the stage `units` first")
    assert "Traceback" not in done.stderr
