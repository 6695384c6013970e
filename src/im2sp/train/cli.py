"""`im2sp train`: a recipe in, the folders of its stages out."""

from __future__ import annotations

from pathlib import Path

import click

from im2sp.train.launch import log_to_stderr


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
    from im2sp.train.recipes import read_recipe
    from im2sp.train.stages import is_done, run_stages

    if recipe is None:
        from im2sp.train.recipes import run_smoke

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
