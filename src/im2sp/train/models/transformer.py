"""Pre-norm transformer block of the image tokenizer and of the token ViT, with the parameter names of timm's."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention; queries, keys and values come out of one matrix."""

    def __init__(self, width: int, heads: int, head_width: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=bias)
        self.proj = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, width] -> [B, N, width]."""
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        y: Tensor = self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return y


class Block(nn.Module):
    """Attention, then two matrices with an activation between them."""

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        feed_forward: int,
        activation: nn.Module,
        eps: float = 1e-5,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads, head_width, qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps)
        layers = {"fc1": nn.Linear(width, feed_forward), "act": activation, "fc2": nn.Linear(feed_forward, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, width] -> [B, N, width]."""
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y
