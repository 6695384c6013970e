"""Processes of a training run: one, or several of `torchrun` or `accelerate launch` (gloo on CPUs, nccl on GPUs)."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import Tensor, distributed, nn

from im2sp.errors import Im2SpError
from im2sp.train.launch import log_to_stderr, process_count

RESTART = "start the run again with all its processes: it resumes from its last checkpoint"


def _leave() -> None:
    """Leave the process group: the threads of gloo end the process badly where they still run at its end."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def work_alone(threads: int) -> None:
    """Set up a process that a stage starts and that shares no batches with the processes of the run.

    Args:
        threads: of torch.
    """
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)
    torch.set_num_threads(threads)
    log_to_stderr()


class Distributed:
    """This process among those of the run."""

    def __init__(self, timeout_minutes: float = 60.0) -> None:
        """Join the process group, unless this process has already done so.

        Args:
            timeout_minutes: how long a process waits for another; the first call of a process decides.

        Raises:
            Im2SpError: the others do not come in time, or the launcher asks for something else than data parallelism.
        """
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
            raise Im2SpError("processes share batches only, on CPUs (gloo) or CUDA devices (nccl): launch them so")
        atexit.register(_leave)
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
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        return self._accelerator.reduce(values, "sum")

    def main_first(self) -> AbstractContextManager[None]:
        """Let the main process go through the block first; the others find its files then."""
        return self._accelerator.main_process_first()

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Destroy the process group."""
        self._accelerator.end_training()


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Turn the errors of torch.distributed into one sentence.

    Raises Im2SpError when another process has ended, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors that begin with a place in its source
        if not (isinstance(error, distributed.DistError) or "gloo/" in str(error)):
            raise
        raise Im2SpError(f"another process of this run has ended or does not answer: {RESTART}") from error
