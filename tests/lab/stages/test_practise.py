"""Stage `practise`: regular sentences laid over recordings of the same words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from im2sp.errors import Im2SpError
from im2sp.lab.data.unit_table import UnitRow, description_of, read_unit_table, write_unit_table
from im2sp.lab.models.speech_encoder import Clusters
from im2sp.lab.recipe import Recipe
from im2sp.lab.stages.practise import distances, lay_over, lay_over_recordings

CENTRES = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [9.0, 9.0]], np.float32)


def test_units_are_as_unlike_as_their_centres() -> None:
    found = distances(Clusters.around(CENTRES)) / 2  # weights are the centres twice
    expected = np.linalg.norm(CENTRES[:, None] - CENTRES, axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("recorded", "units", "expected"),
    [
        ([0, 0, 1, 2, 2], [0, 1, 2], [0, 0, 1, 2, 2]),  # the same sentence
        ([0, 0, 0, 2, 2], [0, 1, 2], [0, 0, 1, 2, 2]),  # 1 is nearer to 0 than to 2, so it takes a frame of 0
        ([0, 3, 3, 2], [0, 2], [0, 2, 2, 2]),
        ([1, 1, 1], [2, 0, 1], [2, 0, 1]),  # no more frames than units
        ([2, 2], [1], [1, 1]),
    ],
)
def test_each_frame_gets_the_likest_unit_in_order(recorded: list[int], units: list[int], expected: list[int]) -> None:
    found = lay_over(np.array(recorded), np.array(units), distances(Clusters.around(CENTRES)))
    assert found.tolist() == expected
    assert found.dtype == np.uint16


def test_a_path_is_the_cheapest_of_all() -> None:
    draw = np.random.default_rng(0)
    apart = distances(Clusters.around(draw.normal(size=(6, 3)).astype(np.float32)))

    def cheapest(recorded: np.ndarray, units: np.ndarray) -> float:
        here = float(apart[recorded[0], units[0]])
        if len(recorded) == 1:
            return here if len(units) == 1 else np.inf
        ways = [cheapest(recorded[1:], units)] + ([cheapest(recorded[1:], units[1:])] if len(units) > 1 else [])
        return here + min(ways)

    for _ in range(20):
        recorded, units = draw.integers(6, size=8), draw.integers(6, size=4)
        found = lay_over(recorded, units, apart)
        assert apart[recorded, found].sum() == pytest.approx(cheapest(recorded, units), rel=1e-5)


def _row(caption: str, units: list[int], split: str = "train") -> UnitRow:
    return UnitRow("photo", caption, np.array(units, np.uint16), split, "voice", 0.1, "text")


def test_tables_are_laid_over_and_what_cannot_be_is_left_out(tmp_path: Path) -> None:
    heard = [_row("a", [0, 0, 1]), _row("b", [0, 1]), _row("c", [0, 0, 0]), _row("d", [0, 0], "dev")]
    write_unit_table(tmp_path / "heard" / "train-0000.parquet", heard, {"speech_encoder": "x"})
    regular = [_row("a", [0, 1, 1, 1]), _row("b", [0, 1, 2]), _row("d", [0])]
    write_unit_table(tmp_path / "regular" / "train-0000.parquet", regular, {"speech_encoder": "x"})
    write_unit_table(
        tmp_path / "regular" / "distilled-unspoken-0000.parquet", [_row("e", [2])], {"speech_encoder": "x"}
    )
    clusters = Clusters.around(CENTRES)

    lay_over_recordings(tmp_path / "heard", tmp_path / "regular", clusters, tmp_path / "out")

    (table,) = (tmp_path / "out").glob("*.parquet")
    found = {row.caption_id: row.speech_units.tolist() for row in read_unit_table(table)}
    assert found == {"a": [0, 0, 1]}
    assert description_of(table) == {"speech_encoder": "x", "laid_over": "regular units"}
    before = table.stat().st_mtime_ns
    lay_over_recordings(tmp_path / "heard", tmp_path / "regular", clusters, tmp_path / "out")
    assert table.stat().st_mtime_ns == before


def test_a_recipe_whose_voice_cannot_practise_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[practise]\nsteps = 2\n")
    with pytest.raises(Im2SpError, match=r"has \[practise\].*needs \[pronunciations\]"):
        Recipe.read(recipe)
