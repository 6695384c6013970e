"""Training loop: a task (networks, data and a loss) -> trained networks.

The loop owns the learning rate, gradient clipping and accumulation, the EMA of the weights, checkpoints, logs and the
processes. A task owns the rest; it draws the data of a step from (seed, step) alone, so that a resumed run gives the
result of an uninterrupted one.

A step has one batch. It is cut into `grad_accum_steps` micro-batches for each process, whose gradients are summed: two
processes compute what one computes with twice the `grad_accum_steps`.
"""

from __future__ import annotations

import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from im2sp.errors import Im2SpError
from im2sp.files import atomic_write
from im2sp.train.distributed import Distributed
from im2sp.train.precision import products

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"

Losses = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class TrainConfig:
    """Options that all trainings have; each task adds its own and sets its defaults."""

    steps: int = 1000
    learning_rate: float = 1e-3  # at its peak
    warm_up: int = 0  # steps up to the peak
    floor: float = 0.02  # learning rate at the end of the cosine, as a fraction of its peak
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999  # of the weights that are kept; 0 keeps the last weights
    grad_accum_steps: int = 1  # micro-batches of a process in one step
    bf16: bool = True  # matrix products in bfloat16, where the device is fast at it
    log_every: int = 50  # steps
    checkpoint_minutes: float = 4.0  # at least this long between two checkpoints, which are written after a log line
    seed: int = 0


@dataclass(frozen=True)
class MicroBatch:
    """One of the equal parts that the batch of a step is cut into."""

    index: int = 0
    count: int = 1

    def rows(self, size: int) -> slice:
        """Rows of this part in a batch of `size` rows. Raises Im2SpError when there are fewer rows than parts."""
        if size < self.count:
            raise Im2SpError(
                f"a batch of {size} cannot be cut into {self.count} micro-batches (processes times "
                "`grad_accum_steps`): make one of the three fit"
            )
        return slice(self.index * size // self.count, (self.index + 1) * size // self.count)

    def share(self, size: int) -> float:
        """Fraction of a batch of `size` rows that is in this part."""
        rows = self.rows(size)
        return (rows.stop - rows.start) / size

    def seed(self, seed: int, step: int) -> int:
        """Seed of what is random in this part of a step."""
        return seed * 1_000_003 + step + (self.index << 40)


WHOLE_BATCH = MicroBatch()


@dataclass(frozen=True)
class Update:
    """One optimizer step: a loss and the optimizer that lowers it."""

    name: str  # of the optimizer
    loss: Callable[[int, MicroBatch], Losses]
    max_grad_norm: float = math.inf


class Task(ABC):
    """What is trained.

    Args:
        config: options of the training.
        model: the network that is kept; its EMA is evaluated and left in it at the end.
        others: networks that are trained beside it and thrown away (discriminators, classifiers).

    Attributes:
        optimizers: by name; a task with others than "model" overrides `updates`.
        ema: averaged weights of `model`, by their names.
        sum_over_processes: sums a tensor on the device.

    The loop sets `ema`, `device` and `sum_over_processes`.
    """

    def __init__(self, config: TrainConfig, model: nn.Module, **others: nn.Module) -> None:
        self.config, self.model = config, model
        self.modules = {"model": model.train()} | {name: module.train() for name, module in others.items()}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"model": adamw(self.modules.values(), config)}
        self.ema: dict[str, Tensor] = {}
        self.device = torch.device("cpu")
        self.sum_over_processes: Callable[[Tensor], Tensor] = lambda tensor: tensor

    @abstractmethod
    def loss(self, step: int, part: MicroBatch) -> Losses:
        """Return what a micro-batch adds to the loss of a step; the loop sums it over the micro-batches.

        A dict has the key "loss" and further values for the log. Randomness is seeded by the loop, from step and part.
        """

    def updates(self, step: int) -> Sequence[Update]:
        """Optimizer steps of one training step, in order."""
        return [Update("model", self.loss, self.config.max_grad_norm)]

    def learning_rate_factor(self, step: int) -> float:
        """Factor on the peak learning rate."""
        return warm_up_cosine(step, self.config.steps, self.config.warm_up, self.config.floor)

    def evaluate(self) -> dict[str, float]:
        """Return what is logged of the averaged weights; called without gradients, in the main process."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return further state for a checkpoint: tensors, numbers and strings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore it."""

    def autocast(self) -> torch.autocast:
        """Context in which matrix products are bfloat16, where the config asks for it and the device is fast at it."""
        return products(self.device, self.config.bf16)


def adamw(
    modules: Iterable[nn.Module],
    config: TrainConfig,
    betas: tuple[float, float] = (0.9, 0.98),
    lr_scale: Callable[[str], float] = lambda name: 1.0,
    decays: Callable[[str, nn.Parameter], bool] = lambda name, parameter: parameter.dim() > 1,
) -> torch.optim.AdamW:
    """Make an AdamW optimizer of the trainable parameters of modules.

    Args:
        lr_scale: name of a parameter -> factor on its learning rate.
        decays: whether a parameter has weight decay; by default matrices have, vectors have not.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((lr_scale(name), decays(name, parameter)), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr_scale": scale, "weight_decay": config.weight_decay * decay}
            for (scale, decay), parameters in sorted(groups.items(), reverse=True)
        ],
        lr=config.learning_rate,
        betas=betas,
    )


def warm_up_cosine(step: int, steps: int, warm_up: int, floor: float = 0.02) -> float:
    """Learning-rate factor: linear from 0 to 1 over `warm_up` steps, then a cosine to `floor`."""
    if step < warm_up:
        return (step + 1) / warm_up
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))


@torch.no_grad()
def ema_update(ema: dict[str, Tensor], weights: Mapping[str, Tensor], decay: float, step: int) -> None:
    """Update an exponential moving average of weights in place, after step 1, 2, ...

    The decay is at most (1 + step) / (10 + step), as early weights are soon out of date.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in weights.items():
        if value.is_floating_point():
            ema[name].lerp_(value, 1 - decay)
        else:
            ema[name].copy_(value)


def train(task: Task, folder: Path) -> None:
    """Train a task to its last step; leave the averaged weights in `task.model`, in evaluation mode on the CPU.

    Resumes from `folder/checkpoint.pt`. Writes the log to `folder/log.jsonl`.

    Raises Im2SpError when the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    loop = _Loop(task, folder)
    loop.restore()
    loop.run()
    task.model.load_state_dict(task.ema)
    for module in task.modules.values():
        module.eval().to("cpu")
    task.device = torch.device("cpu")
    loop.processes.wait()


class _Loop:
    """State of one training: the task, the step and when it was last saved."""

    def __init__(self, task: Task, folder: Path) -> None:
        self.task, self.config, self.path = task, task.config, folder / CHECKPOINT
        self.processes = Distributed()
        first = self.processes.index * self.config.grad_accum_steps
        count = self.processes.count * self.config.grad_accum_steps
        self.parts = [MicroBatch(first + i, count) for i in range(self.config.grad_accum_steps)]
        task.device, task.sum_over_processes = self.processes.device, self.processes.sum
        for module in task.modules.values():
            module.to(task.device)
            self.processes.broadcast(module)
        task.ema = {name: value.clone() for name, value in task.model.state_dict().items()}
        self.step, self.saved, self.started = 0, time.monotonic(), time.monotonic()
        self.log = folder / "log.jsonl"

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.path.is_file():
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            self.step = state["step"]
            for name, module in self.task.modules.items():
                module.load_state_dict(state["modules"][name])
            for name, optimizer in self.task.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            for name, value in state["ema"].items():
                self.task.ema[name].copy_(value)
            self.task.load_state_dict(state["task"])
            log.info("%s: resumed at step %d", self.path, self.step)

    def save(self) -> None:
        """Write the checkpoint, in the main process."""
        self.saved = time.monotonic()
        if not self.processes.is_main:
            return
        state = {
            "step": self.step,
            "modules": {name: module.state_dict() for name, module in self.task.modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.task.optimizers.items()},
            "ema": self.task.ema,
            "task": self.task.state_dict(),
        }
        with atomic_write(self.path) as temporary:
            torch.save(state, temporary)

    def run(self) -> None:
        """Train up to the last step."""
        totals: dict[str, Tensor] = {}
        since = self.step
        while self.step < self.config.steps:
            for name, value in self._train_step().items():
                totals[name] = totals.get(name, 0.0) + value
            ema_update(self.task.ema, self.task.model.state_dict(), self.config.ema_decay, self.step)
            if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                self._report({name: value / (self.step - since) for name, value in totals.items()})
                totals, since = {}, self.step
                if time.monotonic() - self.saved > 60 * self.config.checkpoint_minutes:
                    self.save()
        self.save()

    def _train_step(self) -> dict[str, Tensor]:
        """Make one step; return the losses of this process's micro-batches, summed."""
        factor = self.task.learning_rate_factor(self.step)
        found: dict[str, Tensor] = {}
        for update in self.task.updates(self.step):
            optimizer = self.task.optimizers[update.name]
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * factor * group.get("lr_scale", 1.0)
            optimizer.zero_grad(set_to_none=True)
            for part in self.parts:
                torch.manual_seed(part.seed(self.config.seed, self.step))
                losses = update.loss(self.step, part)
                losses = losses if isinstance(losses, dict) else {"loss": losses}
                losses["loss"].backward()
                for name, value in losses.items():
                    name = name if update.name == "model" else f"{update.name}_{name}"
                    found[name] = found.get(name, 0.0) + value.detach().float()
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self.processes.sum_gradients(parameters)
            nn.utils.clip_grad_norm_(parameters, update.max_grad_norm)
            optimizer.step()
        self.step += 1
        return found

    def _report(self, losses: dict[str, Tensor]) -> None:
        """Write one line of the log: losses averaged since the last line, and what the task evaluates."""
        values = self.processes.sum(torch.stack(list(losses.values()))).tolist()
        row: dict[str, float] = dict(zip(losses, values, strict=True))
        if not math.isfinite(row["loss"]):
            raise Im2SpError(f"{self.log.parent}: the loss is {row['loss']} at step {self.step}: lower learning_rate")
        if self.processes.is_main:
            with torch.no_grad(), self._averaged():
                row |= self.task.evaluate()
            row = {"step": self.step, **row, "minutes": (time.monotonic() - self.started) / 60}
            with self.log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            log.info("%s  %s", self.log.parent.name, "  ".join(f"{name} {value:.4g}" for name, value in row.items()))

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averaged weights into the model, in evaluation mode, for a while."""
        model = self.task.model
        current = {name: value.clone() for name, value in model.state_dict().items()}
        training = [module for module in model.modules() if module.training]
        model.load_state_dict(self.task.ema)
        model.eval()
        yield
        model.load_state_dict(current)
        for module in training:
            module.training = True
