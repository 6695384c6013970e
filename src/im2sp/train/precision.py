"""Products of matrices in bfloat16 where that is faster, in float32 where it is not.

Processors with bfloat16 arithmetic (AMX, AVX-512 BF16) multiply 2 to 4 times as fast in it, with sums in float32; on
one without, the same product takes 50 times as long. So the choice is the machine's, not the recipe's.
"""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor

_ROWS, _WIDTH, _COLUMNS = 128, 256, 256  # a product as in a small transformer
_ROUNDS = 3


def products(device: torch.device | str, bfloat16: bool = True) -> torch.autocast:
    """A context in which products of matrices are bfloat16, where that is wanted and the device is fast at it.

    Args:
        device: or its type, such as "cpu".
        bfloat16: whether it is wanted.
    """
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=bfloat16 and (kind != "cpu" or fast_bfloat16()))


@cache
def fast_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16 at least as fast as in float32.

    Measured once in a process, in a twentieth of a second: torch has no public name for what each processor has. The
    two are far apart on all that we have seen, so that all processes of a run, and the same run later, choose the same.
    """
    with torch.inference_mode():
        a, b = torch.ones(_ROWS, _WIDTH), torch.ones(_WIDTH, _COLUMNS)
        return _seconds(a.bfloat16(), b.bfloat16()) <= _seconds(a, b)


def _seconds(a: Tensor, b: Tensor) -> float:
    """The fastest of a few products, as other programs may want the processor, too."""
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - began)
    return min(times)
