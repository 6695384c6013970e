"""Naming: the likely class of a photo -> a bonus for the tokens that say its name.

The image classifier knows things that no caption taught. A decoder seldom says their names: words that it has rarely
read are unlikely to it. The bonus is added to the logits of these tokens, but not where a sentence begins, until it
holds one of them. Photos of people and other objects that captions teach have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from im2sp.train.models.tagger import Tagger


@dataclass(frozen=True)
class NamingOptions:
    """Section [naming]."""

    bonus: float = 11.0  # logits; 0 leaves naming out
    likely: float = 0.8  # probability of a name above which it is said
    known: float = 0.4  # probability of an object that captions teach, from which it is left to the decoder what to say
    max_captions: int = 200  # that hold the word; more frequent words the decoder knows to say by itself


class Naming(nn.Module):
    """Image units int64 [B, units] -> bonus in logits float32 [B, vocabulary_size].

    Args:
        tagger: of the decoder.
        tokens: of each class, those that say its name.
        objects: words of the tagger that name objects which captions teach.
    """

    tokens: Tensor  # int64 [class_count, most tokens of a class], filled with 0
    objects: Tensor  # int64 [objects]

    def __init__(
        self,
        tagger: Tagger,
        tokens: Sequence[Sequence[int]],
        objects: Sequence[int],
        vocabulary_size: int,
        options: NamingOptions,
    ) -> None:
        super().__init__()
        self.tagger, self.vocabulary_size, self.options = tagger, vocabulary_size, options
        rows = [torch.tensor(some, dtype=torch.long) for some in tokens]
        self.register_buffer("tokens", torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
        self.register_buffer("objects", torch.tensor(objects, dtype=torch.long))

    def forward(self, units: Tensor) -> Tensor:
        """Classes of one name share it: their probabilities are added."""
        inputs, options = self.tagger.inputs(units), self.options
        known = self.tagger(inputs).sigmoid()[:, self.objects].amax(1, keepdim=True)
        classes = inputs[:, -len(self.tokens) :].softmax(1)
        spread = classes[:, :, None].expand(-1, -1, self.tokens.shape[1]).flatten(1)
        blank = classes.new_zeros(classes.shape[0], self.vocabulary_size)
        named = blank.scatter_add(1, self.tokens.flatten().expand(classes.shape[0], -1), spread)
        named[:, 0] = 0  # the filling
        return options.bonus * ((named > options.likely) & (known < options.known))
