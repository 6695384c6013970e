"""Stored units as image features: what comes out is what was written, in whichever view and folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from im2sp.errors import Im2SpError, TableError
from im2sp.image.unit_table import write_unit_table
from im2sp.train.data.unit_features import StoredUnits, UnitFeatures, unit_table_file
from im2sp.train.models.semantic_units import SemanticUnits, SemanticUnitsConfig
from tests.tiny_bundle import tiny_image_units

TOKENIZER = replace(tiny_image_units(), grid=(2, 2))
IDS, MORE = ["a", "b", "c"], ["d", "e"]


def units_of(image_id: str, view: str) -> np.ndarray:
    return np.random.default_rng([ord(image_id), len(view)]).integers(TOKENIZER.codebook_size, size=TOKENIZER.units)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for name, ids in (("one", IDS), ("two", MORE)):
        for view in ("whole", "flip"):
            rows = [(image_id, units_of(image_id, view)) for image_id in ids]
            write_unit_table(unit_table_file(tmp_path / name, view), TOKENIZER, rows)
    return [tmp_path / "one", tmp_path / "two"]


def test_what_was_written_comes_out(folders: list[Path]) -> None:
    stored = StoredUnits(folders, ("whole", "flip"), TOKENIZER, "x")
    assert stored.views == ["whole", "flip"]
    assert stored.shape == (TOKENIZER.units,)
    assert list(stored.rows) == IDS + MORE
    np.testing.assert_array_equal(stored.get("b", 1), units_of("b", "flip"))
    both = stored.batch(["e", "a"], np.array([0, 1]))
    assert both.dtype == np.int64
    np.testing.assert_array_equal(both, [units_of("e", "whole"), units_of("a", "flip")])


def test_features_are_the_centres_of_the_units(folders: list[Path]) -> None:
    quantiser = SemanticUnits(SemanticUnitsConfig(6, 5, TOKENIZER.codes, TOKENIZER.codebook_size))
    quantiser.codebooks.normal_(generator=torch.Generator().manual_seed(0))
    features = UnitFeatures(StoredUnits(folders, ("whole", "flip"), TOKENIZER, "x"), quantiser.features)
    assert features.shape == (4, 5)
    found = features.batch(["d", "c"], np.array([1, 0]))
    assert found.dtype == np.float32
    centres = quantiser.codebooks.numpy()
    for row, units in zip(found, (units_of("d", "flip"), units_of("c", "whole")), strict=True):
        wanted = [sum(centres[level, code] for level, code in enumerate(cell)) for cell in units.reshape(4, -1)]
        np.testing.assert_allclose(row, wanted, rtol=1e-6)
    np.testing.assert_array_equal(features.get("c"), found[1])


def test_what_does_not_fit_is_one_sentence(folders: list[Path]) -> None:
    with pytest.raises(Im2SpError, match=r"crop90.parquet is missing: run the stage `x` first"):
        StoredUnits(folders, ("whole", "crop90"), TOKENIZER, "x")
    with pytest.raises(Im2SpError, match="were made by the tokenizer"):
        StoredUnits(folders, ("whole",), replace(TOKENIZER, checksum="1" * 64), "x")
    table = unit_table_file(folders[1], "flip")
    write_unit_table(table, TOKENIZER, [("f", units_of("f", "flip"))])
    with pytest.raises(Im2SpError, match="whole and flip are of different photos"):
        StoredUnits(folders, ("whole", "flip"), TOKENIZER, "x")
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(TableError, match="is cut short"):
        StoredUnits(folders, ("whole", "flip"), TOKENIZER, "x")
