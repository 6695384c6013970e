"""`im2sp train`: a recipe in, the folders of its stages out. And `im2sp-lab`, until its last user is gone."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import click
import typer

from im2sp.errors import Im2SpError
from im2sp.train.convert.commands import app as convert
from im2sp.train.data.commands import ingest
from im2sp.train.launch import process_count
from im2sp.train.logs import log_to_stderr
from im2sp.train.publishing import push
from im2sp.train.recipe import FEATURES, INPUTS, Recipe


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--stage", help="Run this stage only.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder to read from, in place of the recipe's `data`.")
@click.option("--runs", type=click.Path(path_type=Path), help="Folder to write to, in place of the recipe's `runs`.")
@click.option("--list", "listing", is_flag=True, help="List the stages of the recipe and whether they are done.")
@click.option("--smoke", is_flag=True, help="Run tiny recipes of every kind, on generated data, in place of RECIPE.")
def train(
    recipe: Path | None, stage: str | None, data: Path | None, runs: Path | None, listing: bool, smoke: bool
) -> None:
    """Train a voice or a captioner by the stages of RECIPE, a TOML file.

    A stage that is done is passed over; one that was stopped goes on where it was. Several processes train together
    when `torchrun -m im2sp train RECIPE` or `accelerate launch -m im2sp train RECIPE` starts them.
    """
    if smoke == (recipe is not None):
        raise click.UsageError("give a RECIPE, or --smoke without one")
    log_to_stderr()
    from im2sp.train.recipe import read_recipe
    from im2sp.train.stages import is_done, run_stages

    if recipe is None:
        from im2sp.train.smoke import run_smoke

        run_smoke(runs or Path("runs/smoke"))
        return
    options, stages = read_recipe(recipe, data, runs)
    if listing:
        for each in stages:
            if each.when(options):
                state = "done" if is_done(options.runs / each.makes) else "to do"
                click.echo(f"{each.name:20} {state:6} {options.runs / each.makes}")
        return
    run_stages(options, stages, stage)


app = typer.Typer(add_completion=False, no_args_is_help=True, help="Trains the model of a recipe, stage by stage.")
app.add_typer(convert, name="convert")
app.command(help="a corpus in its official layout -> speech shards, which the later stages read")(ingest)
app.command(help="a bundle -> a repository on the hub, from which im2sp --model OWNER/NAME reads it")(push)

RecipeFile = Annotated[Path, typer.Option("--recipe", help="recipe file")]
Data = Annotated[Path | None, typer.Option("--data", help="data folder in place of the recipe's")]
Runs = Annotated[Path | None, typer.Option("--runs", help="folder for everything computed, in place of the recipe's")]
Smoke = Annotated[
    bool, typer.Option("--smoke", help="smoke.toml beside the recipe, on a tiny data set made on the spot")
]
Start = Annotated[str, typer.Option(help="translator to take: from pretrained weights, or from scratch")]
Input = Annotated[str, typer.Option("--input", help=f"what the translator sees of photos: {', '.join(INPUTS)}")]

DEFAULT_RECIPE = Path("recipes/flickr8k/recipe.toml")
STAGES = (
    "speak", "encode", "pretrain", "tune", "reward", "distil",
    "hubert", "units", "vocoder", "pronounce", "translate", "reward-translator", "export", "evaluate",
)  # fmt: skip
OF_A_VOICE = ("hubert", "vocoder")  # which a parent has
SHARED = ("pretrain", "tune", "hubert", "vocoder", "translate")  # stages that several processes can share


def _known(start: str) -> str:
    if start not in ("pretrained", "scratch"):
        raise typer.BadParameter("--start is pretrained or scratch")
    return start


def _known_input(seen: str) -> str:
    if seen not in INPUTS:
        raise typer.BadParameter(f"--input is {', '.join(INPUTS[:-1])} or {INPUTS[-1]}")
    return seen


def _recipe(path: Path, data: Path | None, runs: Path | None, smoke: bool) -> Recipe:
    log_to_stderr()
    import torch

    torch.set_num_threads(1)  # stages are made to run side by side, one thread each
    if not smoke:
        return Recipe.read(path, data, runs)
    from im2sp.train.data.tiny_flickr8k import UNLABELLED, write_tiny_flickr8k

    recipe = Recipe.read(path.with_name("smoke.toml"), data, runs)
    if process_count() == 1:  # several would write at the same time; stages before theirs have written it
        write_tiny_flickr8k(recipe.data)
    return replace(recipe, unlabelled=recipe.data / UNLABELLED)


def _run(stage: str, recipe: Recipe, *more: str) -> None:
    from im2sp.train import pipeline

    run = getattr(pipeline, stage.replace("-", "_"))
    if process_count() == 1:
        run(recipe, *more)
        return
    if stage not in SHARED:
        raise Im2SpError(f"the stage {stage} runs in one process: start im2sp-lab without a launcher for it")
    from im2sp.train.training.processes import Processes

    processes = Processes(recipe.patience)
    run(recipe, *more)
    processes.leave()


def _add(stage: str, description: str) -> None:
    @app.command(name=stage, help=description)
    def command(
        recipe: RecipeFile = DEFAULT_RECIPE, data: Data = None, runs: Runs = None, smoke: Smoke = False
    ) -> None:
        _run(stage, _recipe(recipe, data, runs, smoke))


_add("speak", "captions -> spoken captions, through the recipe's voice; a sample checked by the recogniser")
_add("hubert", "spoken captions -> a small HuBERT and its k-means units")
_add("units", "spoken captions -> unit tables and unit subwords")
_add("pronounce", "unit tables -> regular units, which the translator learns from; needs a section [pronunciations]")
_add("vocoder", "units and speech -> vocoder and duration predictor")
_add("encode", "photos -> cached image features")
_add("pretrain", "photos and text captions -> the text captioner that the translator starts from")
_add("tune", "the text captioner and the end of the image backbone learn on together; needs a section [tune]")
_add("reward", "the text captioner -> one whose sentences agree more with people's; needs a section [reward]")
_add("distil", "photos -> sentences of the text captioner -> spoken captions, beside those that people wrote")
_add(
    "reward-translator",
    "the translator -> one whose words agree more with people's; needs [reward_translator]",
)
_add("adopt", "a finished bundle, the recipe's parent -> its translator and subwords, to go on from")
_add("image-tokenizer", "photos -> a ViT-VQGAN, which makes them image units; not part of `all`")
_add("token-vit", "image units and cached features -> a token ViT that captioning starts from; not part of `all`")
_add("semantic-units", "cached features and the translator -> image units of all photos; not part of `all`")


def _add_with_input(stage: str, description: str) -> None:
    @app.command(name=stage, help=description)
    def command(
        recipe: RecipeFile = DEFAULT_RECIPE,
        data: Data = None,
        runs: Runs = None,
        smoke: Smoke = False,
        start: Start = "pretrained",
        seen: Input = FEATURES,
    ) -> None:
        _run(stage, _recipe(recipe, data, runs, smoke), _known(start), _known_input(seen))


_add_with_input("translate", "image features, or image units, -> speech units")
_add_with_input("export", "finished stages -> a bundle")


@app.command(help="the translator of another run, said by the voice of this one; in place of the stage translate")
def resound(
    learned: Annotated[Path, typer.Argument(help="folder of the run in which the translator learned")],
    recipe: RecipeFile = DEFAULT_RECIPE,
    data: Data = None,
    runs: Runs = None,
) -> None:
    """Give a finished translator another voice."""
    from im2sp.train import pipeline

    pipeline.resound(_recipe(recipe, data, runs, False), learned)


@app.command(help="the bundle on the dev part -> report.json, and its figures into the bundle")
def evaluate(
    recipe: RecipeFile = DEFAULT_RECIPE,
    data: Data = None,
    runs: Runs = None,
    smoke: Smoke = False,
    seen: Input = FEATURES,
) -> None:
    """Score a bundle of a recipe."""
    _run("evaluate", _recipe(recipe, data, runs, smoke), _known_input(seen))


@app.command(
    name="import-speech", help="your recordings -> spoken captions, in place of the stage speak; no text needed"
)
def import_speech(
    table: Annotated[Path, typer.Argument(help="CSV or JSON lines: image_id, wav and, for all or none, text")],
    recordings: Annotated[
        Path | None, typer.Option(help="folder that the wavs are in; without it, that of the table")
    ] = None,
    recipe: RecipeFile = DEFAULT_RECIPE,
    data: Data = None,
    runs: Runs = None,
    speaker: Annotated[str, typer.Option(help="name of the voice, for the bundle")] = "own",
    dev: Annotated[int, typer.Option(min=1, max=50, help="per cent of the photos to hold out")] = 10,
    longest: Annotated[float, typer.Option(min=1, max=60, help="seconds; longer recordings are left out")] = 30,
) -> None:
    """Import recordings. Run again, it goes on where it stopped and tries again what it left out."""
    from im2sp.train.stages.import_speech import ImportOptions
    from im2sp.train.stages.import_speech import import_speech as stage

    log_to_stderr()
    read = Recipe.read(recipe, data, runs)
    options = ImportOptions(speaker=speaker, dev_percent=dev, longest=longest, seed=read.seed)
    done = stage(table, recordings or table.parent, read.data, read.speech, options)
    typer.echo(f"{read.speech}: {done.clips} recordings imported, {len(done.problems)} left out")
    if done.problems:
        raise typer.Exit(1)


@app.command(help="the evaluated bundle -> its confidence, fitted to half of dev and tested on the other half")
def calibrate(
    recording: Annotated[
        Path | None, typer.Option(help='recording of "I am not sure what this shows"; else the voice says it')
    ] = None,
    recipe: RecipeFile = DEFAULT_RECIPE,
    data: Data = None,
    runs: Runs = None,
    smoke: Smoke = False,
    seen: Input = FEATURES,
) -> None:
    """Calibrate a bundle of a recipe."""
    from im2sp.train import pipeline

    pipeline.calibrate(_recipe(recipe, data, runs, smoke), recording, _known_input(seen))


@app.command(name="all", help="every stage in order")
def all_stages(recipe: RecipeFile = DEFAULT_RECIPE, data: Data = None, runs: Runs = None, smoke: Smoke = False) -> None:
    """Run every stage."""
    loaded = _recipe(recipe, data, runs, smoke)
    for stage in stages_of(loaded):
        _run(stage, loaded)


def stages_of(recipe: Recipe) -> tuple[str, ...]:
    """Every stage of a recipe in order."""
    if not recipe.replaces_parent:
        return STAGES
    return "adopt", *(stage for stage in STAGES if not recipe.keeps_voice or stage not in OF_A_VOICE)


@app.command(help="the recipe as it is understood, with every default filled in")
def show(recipe: RecipeFile = DEFAULT_RECIPE) -> None:
    """Print a recipe."""
    from rich import print_json

    print_json(
        data={
            key: str(value) if isinstance(value, Path) else value for key, value in asdict(Recipe.read(recipe)).items()
        }
    )


def main() -> None:
    """Entry point: errors that are meant for people become one sentence and exit code 1."""
    try:
        app()
    except Im2SpError as error:
        print(f"im2sp-lab: {error}", file=sys.stderr)
        raise SystemExit(1) from None
