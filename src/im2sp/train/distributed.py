"""Processes of a training run: one, or several of `torchrun` or `accelerate launch` (gloo on CPUs, nccl on GPUs)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import Tensor, distributed, nn

from im2sp.errors import Im2SpError
from im2sp.train.launch import process_count

TIMEOUT_MINUTES = 60.0
RESTART = "start the run again with all its processes: it resumes from its last checkpoint"


class Distributed:
    """This process among those of the run."""

    def __init__(self, timeout_minutes: float = TIMEOUT_MINUTES) -> None:
        """Join the process group, unless this process has already done so.

        Args:
            timeout_minutes: how long a process waits for another; the first call of a process decides.

        Raises:
            Im2SpError: the others do not come in time, or the launcher asks for something else than data parallelism.
        """
        for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("1", "true"):
                raise Im2SpError(f"launch the training without {name}: several processes share the batches only")
        try:
            self._accelerator = Accelerator(
                cpu=not torch.cuda.is_available(),  # without it, accelerate does not start gloo
                mixed_precision="no",  # tasks choose what runs in bfloat16
                kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=timeout_minutes))],
            )
        except RuntimeError as error:  # the errors of torch.distributed are RuntimeErrors
            if process_count() == 1:
                raise
            raise Im2SpError(f"not all processes joined within {timeout_minutes:g} minutes: {RESTART}") from error
        supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if self._accelerator.distributed_type not in supported:
            raise Im2SpError("training runs on CPUs (gloo) and on CUDA devices (nccl) only")
        self.device: torch.device = self._accelerator.device
        self.count: int = self._accelerator.num_processes
        self.index: int = self._accelerator.process_index

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes logs and checkpoints."""
        return self.index == 0

    def broadcast(self, module: nn.Module) -> None:
        """Give a module the weights of the main process."""
        if self.count > 1:
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, 0)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of all processes, in one message.

        DistributedDataParallel would do so during the backward pass, but only for what a module computes in `forward`.
        """
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        if self.count > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def check_same(self, number: int, what: str) -> None:
        """Check that a number is the same in all processes.

        Raises:
            Im2SpError: it is not.
        """
        found = self.sum(torch.tensor([number, number**2], dtype=torch.float64, device=self.device))
        if found[1] * self.count != found[0] ** 2:
            raise Im2SpError(f"the processes find different {what}: all machines need the same folder of runs, shared")

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process go through the block first; the others find its files then."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Destroy the process group."""
        self._accelerator.end_training()


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Turn the errors of torch.distributed into one sentence.

    Raises:
        Im2SpError: another process has ended, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors that begin with a place in its source
        if not (isinstance(error, distributed.DistError) or "gloo/" in str(error)):
            raise
        raise Im2SpError(f"another process of this run has ended or does not answer: {RESTART}") from error
