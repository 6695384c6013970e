"""The benchmark of a full-size Im2Sp, at a small size: checkpoint -> bundle -> speech, against transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "full_size.py"


@pytest.mark.slow
@pytest.mark.parametrize(("seen", "beam"), [("photos", 1), ("units", 3)])
def test_a_small_run_goes_all_the_way(seen: str, beam: int, tmp_path: Path) -> None:
    options = (
        f"--size small --input {seen} --beam {beam} --tokens 70 --rounds 1 --precisions fp32 int8 --work {tmp_path}"
    )
    command = [sys.executable, str(BENCHMARK), *options.split()]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    whole, eight = said.split("fp32: converted")[1].split("int8: converted")
    assert "the first 70 of 70 tokens are those of transformers" in whole
    assert ("64 of 64 image units are those of transformers" in whole) == (seen == "units")
    for part in (whole, eight):
        assert "im2sp caption:" in part
        assert ("im2sp tokenize:" in part) == (seen == "units")
        assert "transformers takes" in part
    assert not list(tmp_path.iterdir())
