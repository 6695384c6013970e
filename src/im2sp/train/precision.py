"""Matrix products in bfloat16 where that is fast.

Processors with bfloat16 arithmetic (AMX, AVX-512 BF16) multiply 2 to 4 times as fast in it, with sums in float32;
others take 50 times as long. So the machine decides, where a recipe allows it.
"""

from __future__ import annotations

import timeit
from functools import cache, partial

import torch

_ROWS, _WIDTH, _COLUMNS = 128, 256, 256  # a product as in a small transformer


def products(device: torch.device | str, bfloat16: bool = True) -> torch.autocast:
    """Autocast context: matrix products in bfloat16, where that is allowed and the device is fast at it.

    Args:
        device: or its type, such as "cpu".
        bfloat16: whether it is allowed.
    """
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=bfloat16 and (kind != "cpu" or fast_bfloat16()))


@cache
def fast_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16 at least as fast as in float32.

    Measured once in a process, in a twentieth of a second, as torch does not tell. The two are far apart on all
    processors that we have seen, so all processes of a run choose the same.
    """
    with torch.inference_mode():
        a, b = torch.ones(_ROWS, _WIDTH), torch.ones(_WIDTH, _COLUMNS)
        pairs = (a.bfloat16(), b.bfloat16()), (a, b)
        # the fastest of a few products, as other programs may use the processor, too
        fast, exact = (min(timeit.repeat(partial(torch.mm, *pair), repeat=3, number=1)) for pair in pairs)
    return fast <= exact
