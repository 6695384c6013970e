"""Recipes are read into typed options, and their stages run in order, each once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from im2sp.errors import Im2SpError
from im2sp.train import recipes
from im2sp.train.recipes import read_recipe
from im2sp.train.stages import DONE, BaseRecipe, Stage, is_done, run_stages
from im2sp.train.trainer import CHECKPOINT, TrainConfig


@dataclass(frozen=True)
class Bread(TrainConfig):
    """A section."""

    kind: Literal["rye", "wheat"] = "rye"
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """A kind of recipe."""

    bread: Bread = Bread()


def _bake(recipe: Recipe, folder: Path) -> None:
    (folder / CHECKPOINT).touch()
    (folder / "loaf").write_text((recipe.runs / "dough" / "lump").read_text() + recipe.bread.kind)


STAGES = [
    Stage[Recipe]("knead", "dough", lambda recipe, folder: _append(folder / "lump", "dough ")),
    Stage[Recipe]("bake", "bread", _bake, needs=("dough",)),
    Stage[Recipe]("slice", "slices", _bake, needs=("bread",), when=lambda recipe: recipe.bread.kind == "wheat"),
]


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture(autouse=True)
def kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind "voice" is the recipe above."""
    module = SimpleNamespace(Recipe=Recipe, STAGES=STAGES)
    monkeypatch.setattr(recipes, "importlib", SimpleNamespace(import_module=lambda name: module))


def _read(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text)
    found, _ = read_recipe(path, runs=folder / "runs")
    assert isinstance(found, Recipe)
    return found


def test_a_recipe_has_typed_sections_which_share_its_seed(tmp_path: Path) -> None:
    text = 'recipe = "voice"\ndata = "here"\nruns = "there"\nseed = 7\n'
    assert _read(tmp_path, text) == Recipe("voice", Path("here"), tmp_path / "runs", 7, bread=Bread(seed=7))
    own = _read(tmp_path, text + '[bread]\nseed = 3\nkind = "wheat"\nsizes = [5]\nsteps = 10\n')
    assert own.bread == Bread(steps=10, seed=3, kind="wheat", sizes=(5,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe = ", "cannot be read"),
        ('recipe = "soup"', "choose one of voice, image_tokenizer, lexicon, captioner"),
        ('recipe = "voice"\ndata = "."\nruns = "."\nsalt = 1', "unknown key 'salt': known are bread"),
        ('recipe = "voice"\ndata = "."\nruns = "."\n[bread]\nsalt = 1', r"section \[bread\], has the unknown key"),
        ('recipe = "voice"\ndata = "."\nruns = "."\n[bread]\nkind = "oat"', "bread.kind"),
        ('recipe = "voice"\ndata = "."\nruns = "."\n[bread]\nsteps = "many"', "Expected `int`"),
        ('recipe = "voice"', "required field `data`"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Im2SpError, match=message):
        _read(tmp_path, text)


def test_stages_run_in_order_and_once(tmp_path: Path) -> None:
    recipe = Recipe("voice", tmp_path, tmp_path)
    with pytest.raises(Im2SpError, match=r"the stage bake needs .*dough"):
        run_stages(recipe, STAGES, "bake")
    with pytest.raises(Im2SpError, match="no stage 'slice': it has knead, bake"):
        run_stages(recipe, STAGES, "slice")
    run_stages(recipe, STAGES, "knead")
    run_stages(recipe, STAGES)
    assert (tmp_path / "bread" / "loaf").read_text() == "dough rye"
    assert not (tmp_path / "bread" / CHECKPOINT).exists()
    assert json.loads((tmp_path / "bread" / DONE).read_text())["recipe"]["bread"]["kind"] == "rye"


def test_a_stage_that_fails_is_not_done(tmp_path: Path) -> None:
    recipe = Recipe("voice", tmp_path, tmp_path)
    fails = Stage[Recipe]("burn", "ashes", lambda recipe, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_stages(recipe, [fails])
    assert not is_done(tmp_path / "ashes")
