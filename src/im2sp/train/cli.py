"""`im2sp train`: a recipe in, the folders of its stages out. And `im2sp-lab`, until its last command is elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import typer

from im2sp.errors import Im2SpError
from im2sp.train.convert.commands import app as convert
from im2sp.train.logs import log_to_stderr
from im2sp.train.publishing import push


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


app = typer.Typer(add_completion=False, no_args_is_help=True)
app.add_typer(convert, name="convert")
app.command(help="a bundle -> a repository on the hub, from which im2sp --model OWNER/NAME reads it")(push)


def main() -> None:
    """Entry point: errors that are meant for people become one sentence and exit code 1."""
    try:
        app()
    except Im2SpError as error:
        print(f"im2sp-lab: {error}", file=sys.stderr)
        raise SystemExit(1) from None
