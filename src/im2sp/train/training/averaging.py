"""The loop of a training run whose averaged weights are kept: schedule, clipping, average, reports, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.train.training.processes import Processes
from im2sp.train.training.progress import Checkpoint, TrainingLog, warm_up_cosine
from im2sp.train.training.sharding import as_kept, local, moments_as_kept, whole

Weights = dict[str, Tensor]


class Pace(Protocol):
    """What the options of such a run have in common."""

    @property
    def steps(self) -> int:
        """Of the run."""

    @property
    def learning_rate(self) -> float:
        """At its peak."""

    @property
    def warm_up(self) -> int:
        """Steps up to the peak."""

    @property
    def floor(self) -> float:
        """Of the learning rate at the end of the cosine, as a share of its peak."""

    @property
    def average_decay(self) -> float:
        """Of the exponential moving average of the weights."""

    @property
    def report_every(self) -> int:
        """Steps."""


def train_averaged(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    learn: Callable[[int], float],
    held_out: Callable[[], float],
    pace: Pace,
    out: Path,
    processes: Processes,
    sharded: bool = False,
) -> None:
    """Train from the last checkpoint in `out`, or from step 0, and leave the averaged weights in the model.

    Args:
        learn: forward and backward pass of a step; returns this process's share of the loss.
        held_out: what is reported of the averaged weights beside the loss.
        sharded: the model is in shards, so that all processes have to take part in whatever is done with it.
    """
    average = {name: value.clone() for name, value in model.state_dict().items()}
    step = 0
    checkpoint = Checkpoint(
        out / "checkpoint.pt",
        lambda: {
            "step": step,
            "model": whole(model.state_dict()),
            "average": whole(average),
            "optimizer": whole(optimizer.state_dict()),
        },
        processes.main,
        processes.decide if sharded else None,
    )
    if state := checkpoint.load():
        step = state["step"]
        average = _as_kept(state["average"], average)
        model.load_state_dict(_as_kept(state["model"], average))
        optimizer.load_state_dict(moments_as_kept(state["optimizer"], optimizer))
    processes.same(step, f"checkpoints in {out}")
    report, losses = TrainingLog(out / "log.jsonl", processes.main), []
    while step < pace.steps:
        for group in optimizer.param_groups:
            factor = warm_up_cosine(step, pace.steps, pace.warm_up, pace.floor)
            group["lr"] = pace.learning_rate * factor * group.get("share", 1.0)
        optimizer.zero_grad(set_to_none=True)
        losses.append(learn(step))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        follow(average, model.state_dict(), pace.average_decay, step)
        if step % pace.report_every == 0 or step == pace.steps:
            (mean,) = processes.sums(float(np.mean(losses)))
            if processes.main or sharded:
                with _with(average, model):
                    error = held_out()
                report.write(step=step, loss=mean, held_out=error)
            losses = []
        checkpoint.maybe_save()
    checkpoint.save()
    model.load_state_dict(average)


@torch.no_grad()
def follow(average: Weights, weights: Weights, decay: float, step: int) -> None:
    """Move an exponential moving average of weights on after step 1, 2, ...; counters keep what they were.

    Its memory is short at first, since early weights are soon out of date: a decay of at most (1 + step) / (10 + step).
    """
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in weights.items():
        if value.is_floating_point():
            local(average[name]).lerp_(local(value), 1 - decay)


def _as_kept(found: Weights, kept: Weights) -> Weights:
    return {name: as_kept(value, kept[name]) for name, value in found.items()}


@contextmanager
def _with(weights: Weights, model: nn.Module) -> Iterator[None]:
    """Put other weights into the model for a while."""
    current = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    yield
    model.load_state_dict(current)
