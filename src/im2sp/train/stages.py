"""Options and stages of a recipe: a stage reads folders, makes one, and is done when that folder is complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from im2sp.errors import Im2SpError
from im2sp.files import write_json
from im2sp.train.distributed import Distributed, explain_lost_process
from im2sp.train.launch import is_main_process, process_count
from im2sp.train.trainer import CHECKPOINT

log = logging.getLogger(__name__)

DONE = "stage.json"  # in the folder of a stage that is done: its name, the options of the run and how long it took
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class BaseRecipe:
    """Options that all recipes have. A kind adds its sections, which are dataclasses.

    A section with a `seed` has the recipe's, unless it gives its own.
    """

    recipe: str  # its kind
    data: Path  # what the run reads
    runs: Path  # what the run makes: a folder for each stage
    seed: int = 0
    timeout_minutes: float = 60.0  # how long one of several processes waits for another


R = TypeVar("R", bound=BaseRecipe)


@dataclass(frozen=True)
class Stage(Generic[R]):
    """One step of a recipe.

    Attributes:
        run: recipe, folder to fill. Run again after it was stopped, it goes on where it was.
        makes: name of that folder in `recipe.runs`.
        needs: folders in `recipe.runs`, as far as stages of the recipe make them.
        when: whether a recipe has this stage.
        distributed: several processes run it together; otherwise the first one runs it and the others wait.
    """

    name: str
    makes: str
    run: Callable[[R, Path], None]
    needs: tuple[str, ...] = ()
    when: Callable[[R], bool] = lambda recipe: True
    distributed: bool = False


def is_done(folder: Path) -> bool:
    """Whether a stage has completed this folder."""
    return (folder / DONE).is_file()


def run_stages(recipe: R, stages: Sequence[Stage[R]], only: str | None = None) -> None:
    """Run the stages of a recipe that are not done yet, in order.

    Args:
        only: name of the single stage to run.

    Raises:
        Im2SpError: there is no such stage, a folder that a stage needs is not complete, or another process is lost.
    """
    listed = [stage for stage in stages if stage.when(recipe)]
    if only is not None and only not in {stage.name for stage in listed}:
        names = ", ".join(stage.name for stage in listed)
        raise Im2SpError(f"this recipe has no stage {only!r}: it has {names}")
    if process_count() > 1:
        Distributed(recipe.timeout_minutes)
    made = {stage.makes for stage in listed}
    for stage in listed:
        if only in (None, stage.name):
            _run(recipe, stage, [recipe.runs / need for need in stage.needs if need in made])


def _run(recipe: R, stage: Stage[R], needs: Sequence[Path]) -> None:
    folder = recipe.runs / stage.makes
    if is_done(folder):
        log.info("%s: done (%s)", stage.name, folder)
        return
    for need in needs:
        if not is_done(need):
            raise Im2SpError(f"the stage {stage.name} needs {need}: run the stage that makes it first")
    if is_main_process() or stage.distributed:
        log.info("%s: starts", stage.name)
        started = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        with explain_lost_process():
            stage.run(recipe, folder)
        if is_main_process():
            for checkpoint in folder.rglob(CHECKPOINT):  # nothing resumes from them any more
                checkpoint.unlink()
            minutes, options = (time.monotonic() - started) / 60, msgspec.to_builtins(recipe, enc_hook=str)
            write_json(folder / DONE, {"stage": stage.name, "minutes": minutes, "recipe": options})
            log.info("%s: done in %.1f minutes (%s)", stage.name, minutes, folder)
    while not is_done(folder):
        time.sleep(POLL_SECONDS)
