"""Naming: the likely class of a photo -> a bonus for the tokens that say its name; and evidence for all words.

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

LEAST = 1e-4  # probability of a word, and of its absence


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


class WordEvidence(nn.Module):
    """Image units int64 [B, units] -> log odds that a caption of the photo holds each token: [B, vocabulary_size].

    Tokens that say nothing about a photo have 0.

    Args:
        places: int64 [vocabulary_size], the token of the tagger that is the same word; 0 where it knows none.
        content: bool [vocabulary_size], which tokens say something about a photo.
    """

    places: Tensor
    content: Tensor

    def __init__(self, tagger: Tagger, places: Tensor, content: Tensor) -> None:
        super().__init__()
        self.tagger = tagger
        self.register_buffer("places", places)
        self.register_buffer("content", content)

    def forward(self, units: Tensor) -> Tensor:
        """The tagger's probabilities, of at least LEAST."""
        probability = self.tagger.probabilities(units)[:, self.places].clamp(LEAST, 1 - LEAST)
        return self.content * probability.logit()
