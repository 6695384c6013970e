"""The benchmark of storage runs, on few rows, and its figures are those of the file."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "unit_storage.py"))


def test_the_comparison(unit_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BENCHMARK["main"](["--table-rows", "2000", "--model", str(unit_bundle)])
    _, _, *lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    by_name = {name: rest for name, *rest in cells}
    assert by_name["raw, 256 x 256 x 24 bits"] == ["1,572,864", "196,608.0", "100.000 %"]
    assert by_name["ViT-VQGAN as the paper counts it"] == ["13,312", "", "0.846 %"]
    assert by_name["tiny-semantic, these photos, table of 4"][0] == "72"
    for name, bits, size, _ in cells:
        if name.endswith("table of 2,000"):
            assert float(size.replace(",", "")) > int(bits.replace(",", "")) / 8
            assert float(size.replace(",", "")) < 1.1 * int(bits.replace(",", "")) / 8 + 10


def test_a_large_table(tmp_path: Path) -> None:
    lines = list(BENCHMARK["large_table"](20_000, tmp_path / "units.parquet"))
    assert lines[0].startswith("20,000 rows of semantic 4x4x8 of 256 written in")
    assert "for 1,024 bits" in lines[0]
    assert "read and compared" in lines[-1]
