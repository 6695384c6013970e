"""The stage `semantic-units`: what is learned from, what is written, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.image.unit_table import UnitTable
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.unit_features import UnitFeatures
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.models.semantic_units import SemanticUnits
from im2sp.train.stages.semantic_units import SemanticUnitsOptions, make_semantic_units, stored_semantic_units
from tests.train.test_distil import write_features

TRAIN, DEV, MORE = list("abcdefgh"), ["m", "n"], list("xyz")
OPTIONS = SemanticUnitsOptions(levels=2, size=8)


def write_captioner(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    GitDecoder(GitDecoderConfig(10, image_width=8, width=16, layers=1, heads=2, feed_forward=8)).save(folder)
    return folder


def make(folder: Path, options: SemanticUnitsOptions = OPTIONS, dev_seed: int = 1) -> SemanticUnits:
    if not (folder / "features").is_dir():
        write_features(folder / "features", TRAIN + DEV, 0)
        write_features(folder / "more", MORE, 2)
        for view in ("whole", "flip"):
            path = folder / "features" / f"{view}.npy"
            rows = np.load(path)
            rows[len(TRAIN) :] = np.random.default_rng(dev_seed).normal(size=rows[len(TRAIN) :].shape)
            np.save(path, rows)
    captioner = folder / "captioner"
    if not captioner.is_dir():
        write_captioner(captioner)
    features = (folder / "features", folder / "more")
    return make_semantic_units(features, DEV, captioner, options, 0, folder / "out")


def test_units_of_all_photos_are_those_of_the_quantiser(tmp_path: Path) -> None:
    model = make(tmp_path)
    for folder, ids in (("features", TRAIN + DEV), ("more", MORE)):
        features = ImageFeatures(tmp_path / folder)
        for view, name in enumerate(("whole", "flip")):
            table = UnitTable.open(tmp_path / "out" / "units" / folder / f"{name}.parquet")
            assert (table.tokenizer.units, table.tokenizer.bits) == (8, 24)
            found = {image_id: units.units for image_id, units in table}
            assert list(found) == ids
            with torch.inference_mode():
                wanted = model(torch.from_numpy(features.batch(ids, view)).float()).numpy()
            np.testing.assert_array_equal(list(found.values()), wanted)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["photos"], report["bits"]) == (11, 24)
    assert 1 > report["missing"][0] > report["missing"][1] > 0
    assert report["missing_held_out"] > report["missing"][1]

    views, folders = ("whole", "flip"), (tmp_path / "features", tmp_path / "more")
    said = UnitFeatures(stored_semantic_units(model, 4, tmp_path / "out", folders, views), model.features)
    with torch.inference_mode():
        seen = torch.from_numpy(ImageFeatures(tmp_path / "more").batch(["y"], 1)).float()
        np.testing.assert_array_equal(said.get("y", 1), model.features(model(seen))[0].numpy())


def test_dev_photos_are_not_learned_from(tmp_path: Path) -> None:
    first, second = make(tmp_path / "one", dev_seed=1), make(tmp_path / "two", dev_seed=2)
    assert torch.equal(first.codebooks, second.codebooks)


def test_some_cells_are_enough(tmp_path: Path) -> None:
    make(tmp_path, replace(OPTIONS, cells=20))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["cells"], report["photos"]) == (20, 11)


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = make(tmp_path)
    table = tmp_path / "out" / "units" / "more" / "flip.parquet"
    before = table.read_bytes()
    table.unlink()
    kept = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    again = make(tmp_path)
    assert torch.equal(again.codebooks, first.codebooks)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == kept
    assert table.read_bytes() == before


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match="cannot make 1024 centres: set a smaller"):
        make(tmp_path, replace(OPTIONS, size=1024))
    make(tmp_path)
    with pytest.raises(Im2SpError, match="other levels or sizes"):
        make(tmp_path, replace(OPTIONS, levels=3))
    write_captioner(tmp_path / "captioner", seed=1)
    with pytest.raises(Im2SpError, match="were made for another translator"):
        make(tmp_path)
    (tmp_path / "captioner" / "model.safetensors").unlink()
    with pytest.raises(Im2SpError, match="run the stage `translate` first"):
        make(tmp_path)
