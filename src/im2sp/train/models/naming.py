"""Naming: the likely class of a photo -> a bonus for the tokens that say its name.

The image classifier knows things that no caption taught. A decoder seldom says their names: words that it has rarely
read are unlikely to it. The bonus is added to the logits of these tokens from the second token of a sentence on, until
the sentence holds one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class NamingOptions:
    """Section [naming]."""

    bonus: float = 8.0  # logits; 0 leaves naming out
    likely: float = 0.6  # probability of a name above which it is said
    max_captions: int = 20  # that hold the word; more frequent words the decoder knows to say by itself


class Naming(nn.Module):
    """Probabilities of classes float32 [B, class_count] -> bonus in logits float32 [B, vocabulary_size].

    Args:
        tokens: of each class, those that say its name.
    """

    tokens: Tensor  # int64 [class_count, most tokens of a class], filled with 0

    def __init__(self, tokens: Sequence[Sequence[int]], vocabulary_size: int, options: NamingOptions) -> None:
        super().__init__()
        self.vocabulary_size, self.options = vocabulary_size, options
        rows = [torch.tensor(some, dtype=torch.long) for some in tokens]
        self.register_buffer("tokens", torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))

    def forward(self, classes: Tensor) -> Tensor:
        """Classes of one name share it: their probabilities are added."""
        spread = classes[:, :, None].expand(-1, -1, self.tokens.shape[1]).flatten(1)
        blank = classes.new_zeros(classes.shape[0], self.vocabulary_size)
        named = blank.scatter_add(1, self.tokens.flatten().expand(classes.shape[0], -1), spread)
        named[:, 0] = 0  # the filling
        return self.options.bonus * (named > self.options.likely)
