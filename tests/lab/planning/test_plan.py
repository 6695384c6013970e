"""Plans of the paper's recipes, and of a small one whose models are really built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from im2sp.errors import Im2SpError
from im2sp.lab.cli import app
from im2sp.lab.models.token_vit import TokenVit, TokenVitConfig
from im2sp.lab.models.translator import Translator, TranslatorConfig
from im2sp.lab.planning.plan import GPUS, PROJECTION, plan
from im2sp.lab.recipe import Recipe
from im2sp.lab.stages.translate import freeze
from im2sp.lab.training.progress import warm_up_cosine
from im2sp.lab.training.translator import TranslatorTraining

PAPER = Path(__file__).parents[3] / "recipes" / "paper"
SECTIONS = ("corpus", "image_encoder", "translator", "translate", "hifigan", "hifigan_sizes", "bundle", "plan")
SMALL = """
subwords = 20
views = ["whole", "flip"]
[image_encoder]
kind = "token-vit"
[token_vit_sizes]
code_width = 8
crop = 12
width = 32
layers = 2
heads = 4
feed_forward = 96
[translator]
width = 24
layers = 3
heads = 4
feed_forward = 40
max_positions = 50
[translate]
steps = 100
photos = 10
captions = 2
frozen = ["image_projection", "image_norm"]
[plan]
train_photos = 50
caption_tokens = 11
gpus = 4
"""


def write(tmp_path: Path, text: str = SMALL) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_a_small_recipe_against_its_models(tmp_path: Path) -> None:
    found = plan(Recipe.read(write(tmp_path)))
    sizes = TokenVitConfig(code_width=8, crop=12, width=32, layers=2, heads=4, feed_forward=96)
    vit = TokenVit(sizes)
    translator = Translator(
        TranslatorConfig(23, image_width=32, width=24, layers=3, heads=4, feed_forward=40, max_positions=50)
    )
    assert found.encoder_parameters == sum(p.numel() for p in vit.parameters())
    assert found.translator_parameters == sum(p.numel() for p in translator.parameters())
    assert found.translator_parameters - found.trained_parameters == 32 * 24 + 24 + 24 + 24
    features = vit(torch.zeros(10, 8, 12, 12))
    assert features.shape[1] == found.image_tokens == sizes.image_tokens
    assert found.tokens == 10 * found.image_tokens + 20 * 10
    assert (found.steps, found.passes) == (100, 20)
    assert found.flops == 100 * (found.forward + found.backward)
    assert found.encoder_flops_each_step == found.encoder_flops * 100 * 10 / (50 * 2)  # photos of all steps; both views
    # What an optimizer really holds: two moments of everything that is trained, beside its gradients.
    freeze(translator, PROJECTION)
    optimizer = torch.optim.AdamW(translator.parameters())
    translator(features, torch.ones(20, 10, dtype=torch.long), torch.arange(20) // 2).sum().backward()
    optimizer.step()
    memory = {part.what: part.size for part in found.memory}
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    assert memory["AdamW"] == sum(value.numel() * 4 for value in moments)
    assert memory["gradients"] == sum(p.grad.numel() * 4 for p in translator.parameters() if p.grad is not None)
    assert memory["gradients on their way"] == memory["gradients"]
    alone = plan(Recipe.read(write(tmp_path, SMALL.replace("gpus = 4", "gpus = 1"))))
    alone_memory = {part.what: part.size for part in alone.memory}
    assert "gradients on their way" not in alone_memory
    assert alone_memory["activations"] == pytest.approx(memory["activations"] * 10 / 3)  # 3 of 10 photos on the fullest
    assert alone.hours(alone.flops, GPUS["l4"], 0.5) == pytest.approx(alone.flops / (121e12 * 0.5 * 3600))


def test_a_model_in_shards(tmp_path: Path) -> None:
    in_shards = plan(Recipe.read(write(tmp_path, SMALL.replace("photos = 10", "photos = 10\nsharded = true"))))
    whole = {part.what: part.size for part in plan(Recipe.read(write(tmp_path))).memory}
    memory = {part.what: part.size for part in in_shards.memory}
    for what in ("weights", "averaged weights", "gradients", "AdamW"):
        assert memory[what] == whole[what] // 4
    translator = Translator(
        TranslatorConfig(23, image_width=32, width=24, layers=3, heads=4, feed_forward=40, max_positions=50)
    )
    one_layer = sum(p.numel() for p in translator.stack[0].parameters())
    assert memory["put together"] == 8 * (in_shards.translator_parameters - one_layer)  # 2 of its 3
    assert "gradients on their way" not in memory


@pytest.mark.parametrize("data", ["coco", "flickr8k"])
@pytest.mark.parametrize("kind", ["raw", "units"])
def test_the_paper_s_recipes(data: str, kind: str) -> None:
    recipe = Recipe.read(PAPER / f"{data}-{kind}.toml")
    options = recipe.section("translate", TranslatorTraining)
    assert (options.steps, options.warm_up, options.learning_rate, options.weight_decay) == (
        100_000,
        10_000,
        5e-5,
        1e-5,
    )
    assert options.photos * options.captions == 4 * 16
    assert options.frozen == (PROJECTION if kind == "raw" else ())
    assert warm_up_cosine(options.steps, options.steps, options.warm_up, options.floor) == 0
    found = plan(recipe)
    assert found.image_tokens == (257 if kind == "raw" else 197)
    assert found.gpus == 4
    assert found.translator_parameters == (44_260_043 if kind == "raw" else 44_063_435)
    assert 85e6 < found.encoder_parameters < 304e6
    assert recipe.sections.keys() <= {*SECTIONS, "token_vit_sizes"}


def call(*arguments: object) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, ["plan", *map(str, arguments)])
    return result.exit_code, result.stdout, result.exception


def test_the_command(tmp_path: Path) -> None:
    code, text, _ = call(PAPER / "coco-raw.toml", "--gpu", "a100-40gb", "--utilisation", 0.5)
    assert code == 0
    assert text.startswith("4 x a100-40gb; 50% of their 312 TFLOPs a second are reached (assumed)\n")
    for words in ("43,471,307 trained, 788,736 frozen", "AdamW", "64 photos of 257, 64 captions of 149", "estimated: "):
        assert words in text
    assert text == call(PAPER / "coco-raw.toml", "--gpu", "a100-40gb", "--utilisation", 0.5)[1]
    wrong = {
        "caption_tokens = 11": ("caption_tokens = 52", "caption_tokens from 2 to 51"),
        "gpus = 4": ("gpus = 11", "not more gpus than photos a step"),
        '"token-vit"': ('"clip"', "no image encoder 'clip'"),
        '"image_norm"]': ('"heads"]', "no 'heads' to freeze"),
        '"image_projection", "image_norm"': ('"layers"', "cannot tell what a step with layers frozen costs"),
        "[plan]": ("[plans]", r"section \[plan\] of the recipe does not fit"),
    }
    for old, (new, expected) in wrong.items():
        with pytest.raises(Im2SpError, match=expected):
            plan(Recipe.read(write(tmp_path, SMALL.replace(old, new))))
    _, _, error = call(PAPER / "coco-raw.toml", "--gpu", "abacus")
    assert str(error).startswith("there is no data sheet of a GPU 'abacus'")
    large = (PAPER / "coco-raw.toml").read_text().replace("photos = 64", "photos = 6400")
    code, text, error = call(write(tmp_path, large), "--gpu", "l4")
    assert code == 1
    assert "estimated" in text
    assert str(error).startswith("this does not fit into a l4")
