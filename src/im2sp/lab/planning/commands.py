"""`im2sp-lab plan`: what training the translator of a recipe takes, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from im2sp.errors import Im2SpError
from im2sp.lab.planning.plan import GPUS, Gpu, Plan
from im2sp.lab.planning.plan import plan as work_out
from im2sp.lab.recipe import Recipe


def plan(
    recipe: Annotated[Path, typer.Argument(help="recipe file with a section [plan], such as those of recipes/paper")],
    gpu: Annotated[str, typer.Option(help=f"{', '.join(GPUS)}")],
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1, help="share of the data sheet's arithmetic that is reached; assumed")
    ] = 0.3,
) -> None:
    """Print the plan. Exit code 1 where it does not fit into the GPU's memory."""
    if gpu not in GPUS:
        raise Im2SpError(f"there is no data sheet of a GPU {gpu!r}: known are {', '.join(GPUS)}")
    worked_out = work_out(Recipe.read(recipe))
    for line in describe(worked_out, gpu, GPUS[gpu], utilisation):
        typer.echo(line)
    if worked_out.memory_total > GPUS[gpu].memory:
        raise Im2SpError(f"this does not fit into a {gpu}: take more GPUs, fewer photos a step, or a larger kind")


def describe(plan: Plan, name: str, gpu: Gpu, utilisation: float) -> list[str]:
    """The plan for people, line by line."""

    def hours(flops: int) -> str:
        return f"{plan.hours(flops, gpu, utilisation):,.1f} h"

    batch, frozen = plan.batch, plan.translator_parameters - plan.trained_parameters
    seen = f"{batch.photos} photos of {plan.image_tokens}, {batch.captions} captions of {batch.tokens}"
    once, step_by_step = plan.encoder_flops, plan.encoder_flops_each_step
    return [
        f"{plan.gpus} x {name}; {utilisation:.0%} of their {gpu.peak / 1e12:.0f} TFLOPs a second are reached (assumed)",
        "",
        "parameters",
        f"  image encoder   {plan.encoder_parameters:>13,}  all frozen",
        f"  translator      {plan.translator_parameters:>13,}  {plan.trained_parameters:,} trained, {frozen:,} frozen",
        "",
        "memory of each GPU, GB",
        *(f"  {part.what:<22} {part.size / 1e9:>7.2f}  {part.why}" for part in plan.memory),
        f"  {'in all':<22} {plan.memory_total / 1e9:>7.2f}  of {gpu.memory / 1e9:.0f}",
        "",
        "tokens",
        f"  a step          {plan.tokens:>13,}  {seen}",
        f"  {plan.steps:>9,} steps {plan.steps * plan.tokens:>13,}  {plan.passes:,.1f} times over the photos",
        "",
        "FLOPs of the products of matrices, 2 for a multiplication and an addition",
        f"  a step             {plan.step_flops:>10.3e}  {plan.forward:.3e} forward, {plan.backward:.3e} backward",
        f"  all steps          {plan.flops:>10.3e}  {hours(plan.flops)}",
        f"  image encoder      {once:>10.3e}  {hours(once)}; each photo and view once, before the first step",
        f"  (in every step     {step_by_step:>10.3e}  {hours(step_by_step)}; the paper's code does so, im2sp does not)",
        "",
        f"estimated: {hours(plan.flops + once)}",
    ]
