"""Train the tagger: image units of photos -> the words that their captions hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from im2sp.train.models.tagger import Tagger
from im2sp.train.trainer import MicroBatch, Task, TrainConfig


@dataclass(frozen=True)
class TaggerTraining(TrainConfig):
    """Options of the stage."""

    steps: int = 1200
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    ema_decay: float = 0.99
    photos: int = 128  # a step, with captions
    labelled: int = 48  # a step, of which only some words that belong to them are known: objects, classes
    dropout: float = 0.3  # of inputs
    min_photos: int = 8  # in whose captions a word stands
    tags: int = 8  # image tokens of the captioner


class TaggerTask(Task):
    """Binary cross-entropy of each word; of labelled photos, of the words that are known to belong to them.

    Args:
        inputs: what `Tagger.inputs` returns for each view, float32 [photos, inputs] each, in the same order.
        described: rows of photos with captions, and `words` [described, words] of them.
        labelled: row -> columns of words that belong to the photo.
    """

    def __init__(
        self,
        config: TaggerTraining,
        model: Tagger,
        inputs: Sequence[Tensor],
        described: np.ndarray,
        words: np.ndarray,
        labelled: Mapping[int, Sequence[int]],
    ) -> None:
        super().__init__(config, model)
        self.tagger, self.options, self.inputs = model, config, inputs
        self.described, self.words = described, words
        self.labelled = [(row, list(columns)) for row, columns in labelled.items() if columns]

    def loss(self, step: int, part: MicroBatch) -> Tensor:
        """Sum over words, mean over the described photos."""
        options = self.options
        random = np.random.default_rng((options.seed, step))
        inputs = self.inputs[int(random.integers(len(self.inputs)))]
        chosen = random.integers(len(self.described), size=options.photos)[part.rows(options.photos)]
        logits = self._logits(inputs, self.described[chosen])
        wanted = torch.from_numpy(self.words[chosen]).to(logits)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        if self.labelled:
            picks = random.integers(len(self.labelled), size=options.labelled)[part.rows(options.labelled)]
            some = [self.labelled[pick] for pick in picks]
            logits = self._logits(inputs, np.array([row for row, _ in some]))
            known = torch.zeros_like(logits)
            for place, (_, columns) in enumerate(some):
                known[place, columns] = 1.0
            loss = loss + (F.softplus(-logits) * known).sum()
        return loss / options.photos

    def _logits(self, inputs: Tensor, rows: np.ndarray) -> Tensor:
        x = (inputs[rows].to(self.device) - self.tagger.input_mean) / self.tagger.input_std
        with self.autocast():
            logits: Tensor = self.tagger.linear(F.dropout(x, self.options.dropout))
        return logits.float()
