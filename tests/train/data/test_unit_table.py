"""Unit tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from im2sp.errors import Im2SpError
from im2sp.train.data.unit_table import UnitRow, iterate_unit_tables, write_unit_table


def test_unit_tables_come_back_and_do_not_mix(tmp_path: Path) -> None:
    rows = [UnitRow("a", "a_0", np.array([3, 3, 5], np.uint16), "train", "joe", 0.06, "hello")]
    write_unit_table(tmp_path / "train-0000.parquet", rows, {"speech_encoder": "one"})
    (found,) = iterate_unit_tables(tmp_path)
    assert found.speech_units.tolist() == [3, 3, 5]
    assert not list(iterate_unit_tables(tmp_path, "dev"))
    write_unit_table(tmp_path / "train-0001.parquet", rows, {"speech_encoder": "two"})
    with pytest.raises(Im2SpError, match="mixes units"):
        list(iterate_unit_tables(tmp_path))


def test_datasets_reads_the_unit_table(tmp_path: Path) -> None:
    import datasets

    rows = [UnitRow("a", f"a_{k}", np.arange(k + 1, dtype=np.uint16), "train", "joe", 0.1, "hi") for k in range(4)]
    write_unit_table(tmp_path / "t.parquet", rows, {"speech_encoder": "one"})
    table = datasets.Dataset.from_parquet(str(tmp_path / "t.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table[3]["speech_units"] == [0, 1, 2, 3]
