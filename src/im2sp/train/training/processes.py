"""The processes of a training run: one, or several under `torchrun` or `accelerate launch` that share every batch.

A step has one global batch, which follows from the seed and the step alone. It is cut into as many parts as there are
processes times `accumulate`; every process adds up the gradients of its parts, and DistributedDataParallel those of all
processes. So the parts, not the processes, decide what is computed: two processes do what one does with `accumulate` 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import distributed, nn

from im2sp.errors import Im2SpError
from im2sp.train.launch import process_count
from im2sp.train.training.sharding import shard

PATIENCE = 60.0  # minutes
GONE = "start the run again with all its processes: it goes on from its last checkpoint"


@dataclass(frozen=True)
class Part:
    """One of the parts that the batch of a step is cut into."""

    number: int = 0
    of: int = 1
    last: bool = True  # of those of this process

    def rows(self, count: int) -> slice:
        """Which of `count` rows belong to it."""
        return slice(self.number * count // self.of, (self.number + 1) * count // self.of)

    def share(self, count: int) -> float:
        """How much of `count` rows these are."""
        rows = self.rows(count)
        return (rows.stop - rows.start) / count

    def seed(self, seed: int) -> int:
        """Seed of what is random in this part (dropout); that of the first part is that of an undivided batch."""
        return seed + (self.number << 40)


WHOLE = Part()


class Processes:
    """The processes of this run as one of them sees them."""

    def __init__(self, patience: float = PATIENCE) -> None:
        """Meet the others, unless that has happened; a run that nobody launched is one process.

        Args:
            patience: minutes that a process waits for another; the first call of a process decides.

        Raises:
            Im2SpError: the others do not come, or the launcher asks for what is not supported.
        """
        for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("1", "true"):
                raise Im2SpError(
                    f"launch it without {name}: training in several processes uses DDP, and shards the translator "
                    "where the recipe has `sharded = true`"
                )
        try:
            # Without a card the launcher's variables alone do not make accelerate start gloo.
            self._accelerator = Accelerator(
                cpu=not torch.cuda.is_available(),
                mixed_precision="no",  # autocast is the training loops' own
                kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=patience))],
            )
        except RuntimeError as error:  # torch.distributed's errors are of this kind
            if process_count() == 1:
                raise
            raise Im2SpError(f"not all processes of this run came within {patience:g} minutes: {GONE}") from error
        if self.count > 1 and self._accelerator.distributed_type not in (
            DistributedType.MULTI_CPU,
            DistributedType.MULTI_GPU,
        ):
            raise Im2SpError("training in several processes runs on CPUs (gloo) and on CUDA (nccl) only")

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._accelerator.device

    @property
    def count(self) -> int:
        """How many there are."""
        return self._accelerator.num_processes

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self._accelerator.is_main_process

    def parts(self, accumulate: int, smallest: int, what: str) -> list[Part]:
        """The parts of a step that are this process's.

        Args:
            accumulate: parts a process.
            smallest: rows of the smallest batch there can be, of which each part needs one.
            what: the option that sets their number, for the message.

        Raises:
            Im2SpError: there are fewer rows than parts.
        """
        total = self.count * accumulate
        if not 0 < total <= smallest:
            raise Im2SpError(
                f"`{what}` makes steps of {smallest} that cannot be cut into {total} parts "
                f"({self.count} processes, `accumulate` {accumulate}): change one of the three"
            )
        first = self._accelerator.process_index * accumulate
        return [Part(first + i, total, i == accumulate - 1) for i in range(accumulate)]

    def share(self, module: nn.Module) -> nn.Module:
        """Move a module to the device and share its gradients: all processes begin with the weights of the main one."""
        module.to(self.device)
        shared: nn.Module = self._accelerator.prepare_model(module)
        return shared

    def shard(self, module: nn.Module, layers: Iterable[nn.Module], methods: tuple[str, ...]) -> None:
        """Keep one of the shards of a module, on the device (`im2sp.train.training.sharding.shard`)."""
        shard(module, layers, methods, self.device.type, self.count)

    def backward_of(self, part: Part, shared: nn.Module) -> AbstractContextManager[None]:
        """Around forward and backward pass of a part: gradients go to the others with the last part of a process."""
        return nullcontext() if part.last else self._accelerator.no_sync(shared)

    def backward(self, loss: torch.Tensor) -> None:
        """Backward pass of a part's contribution to the loss of the step; contributions add up."""
        (loss * self.count).backward()  # the others' gradients are averaged with these

    def sums(self, *values: float) -> list[float]:
        """Each value summed over all processes. All must call this."""
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        return tensor.tolist()

    def same(self, value: int, what: str) -> None:
        """Make sure that all processes see the same.

        Raises:
            Im2SpError: they do not.
        """
        total, squares = self.sums(value, value**2)
        if squares * self.count != total**2:
            raise Im2SpError(
                f"the processes see different {what}: all machines of a run need the same folder of runs, shared"
            )

    def decide(self, wanted: bool) -> bool:
        """What the main process wants. All must call this."""
        (found,) = self.sums(float(wanted and self.main))
        return found > 0

    def main_first(self) -> AbstractContextManager[None]:
        """Run a block in the main process, then in the others, which find what it wrote."""
        block: AbstractContextManager[None] = self._accelerator.main_process_first()
        return block

    def wait(self) -> None:
        """Go on when all have come here."""
        self._accelerator.wait_for_everyone()

    def leave(self) -> None:
        """Say goodbye, when nothing is to be exchanged any more."""
        if self.count > 1:
            distributed.destroy_process_group()


@contextmanager
def peers_answer() -> Iterator[None]:
    """Around what needs the other processes: that one of them is gone becomes one sentence.

    Raises:
        Im2SpError: another process has ended, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        if not _tells_of_peers(error):
            raise
        raise Im2SpError(f"another process of this run has ended or does not answer: {GONE}") from error


def _tells_of_peers(error: RuntimeError) -> bool:
    """Whether another process is the cause. Gloo raises plain RuntimeErrors that begin with a place in its source."""
    return isinstance(error, distributed.DistError) or "gloo/" in str(error)
