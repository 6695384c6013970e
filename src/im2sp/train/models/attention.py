"""Self-attention over image tokens whose queries, keys and values come out of one fused matrix."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def fused_attention(fused: Tensor, heads: int) -> Tensor:
    """Queries, keys and values side by side [B, N, 3 * heads * head_width] -> what each token attends to
    [B, N, heads * head_width]; scores are divided by the root of head_width.
    """
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in fused.chunk(3, -1))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
