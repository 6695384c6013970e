"""Tagger: what image units say -> the words that a caption of the photo is likely to hold.

A linear layer on the mean cell and the class log-probabilities knows the words of captions; the names of the image
classifier's classes know the words that no caption ever taught.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from im2sp.train.models.image_units import FLOOR, ImageUnits, ImageUnitsConfig
from im2sp.train.models.saving import WEIGHTS, load_config, save_model

CLASS_STD = 2.0  # of log-probabilities of classes; each by its own deviation would make rare ones enormous


@dataclass(frozen=True)
class TaggerConfig:
    """Sizes of a tagger."""

    words: int  # words that the linear layer knows
    vocabulary_size: int
    tags: int = 8
    class_words: int = 6  # at most, of the name of a class
    class_trust: float = 0.9  # factor on the probability of a class as that of the words of its name


class Tagger(nn.Module):
    """Image units -> tokens and probabilities of the likeliest words.

    The image units are part of it, so that everything that sees a photo by its units is one module.
    """

    input_mean: Tensor
    input_std: Tensor
    word_tokens: Tensor  # int64 [words]
    class_tokens: Tensor  # int64 [class_count, class_words], filled with 0

    def __init__(self, config: TaggerConfig, image: ImageUnitsConfig) -> None:
        super().__init__()
        self.config = config
        self.image_units = ImageUnits(image)
        inputs = image.width + image.class_count
        self.linear: nn.Module = nn.Linear(inputs, config.words)
        self.register_buffer("input_mean", torch.zeros(inputs))
        self.register_buffer("input_std", torch.ones(inputs))
        self.register_buffer("word_tokens", torch.zeros(config.words, dtype=torch.long))
        self.register_buffer("class_tokens", torch.zeros(image.class_count, config.class_words, dtype=torch.long))
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, -4.0)

    def inputs(self, units: Tensor) -> Tensor:
        """Units int64 [B, units] -> what the linear layer takes, before normalisation: [B, width + class_count]."""
        cells, classes = self.image_units.embed(units)
        return torch.cat([cells.mean(1), classes], 1)

    def normalise(self, inputs: Tensor) -> None:
        """Centre and scale what `inputs` returned of many photos; classes, most of them absent, by one scale."""
        width = self.image_units.config.width
        self.input_mean[:width], self.input_std[:width] = inputs[:, :width].mean(0), inputs[:, :width].std(0) + 1e-3
        self.input_mean[width:], self.input_std[width:] = math.log(FLOOR), CLASS_STD

    def forward(self, inputs: Tensor) -> Tensor:
        """What `inputs` returns -> logits of the words [B, words]."""
        logits: Tensor = self.linear((inputs - self.input_mean) / self.input_std)
        return logits

    def tags(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Units int64 [B, units] -> (tokens int64, probabilities float32), both [B, tags], the likeliest first."""
        top = self.probabilities(units).topk(self.config.tags, 1)
        return top.indices, top.values

    def probabilities(self, units: Tensor) -> Tensor:
        """Units int64 [B, units] -> probability that a caption holds each token: float32 [B, vocabulary_size]."""
        inputs = self.inputs(units)
        known = self(inputs).sigmoid()
        classes = inputs[:, -self.image_units.config.class_count :].softmax(1)
        blank = inputs.new_zeros(units.shape[0], self.config.vocabulary_size)
        words = blank.scatter(1, self.word_tokens.expand(units.shape[0], -1), known)
        spread = classes[:, :, None].expand(-1, -1, self.config.class_words).flatten(1)
        named = blank.scatter_add(1, self.class_tokens.flatten().expand(units.shape[0], -1), spread)
        score = torch.maximum(words, self.config.class_trust * named)
        score[:, 0] = 0  # the filling
        return score

    def factorise(self, rank: int, inputs: Tensor) -> None:
        """Replace the linear layer by two, through so many channels: those in which its logits differ most.

        Principal components of the logits of photos, whose classes vary together; the largest singular values of the
        matrix alone keep less (docs/results.md).

        Args:
            inputs: what `inputs` returned of photos, many more than the rank.
        """
        whole = self.linear
        assert isinstance(whole, nn.Linear)
        centred = (inputs - self.input_mean) / self.input_std @ whole.weight.T
        _, _, directions = torch.linalg.svd(centred - centred.mean(0), full_matrices=False)
        kept = directions[:rank]
        first = nn.Linear(whole.in_features, len(kept), bias=False)
        second = nn.Linear(len(kept), whole.out_features)
        first.weight.copy_(kept @ whole.weight)
        second.weight.copy_(kept.T)
        missing = (centred - centred @ kept.T @ kept).mean(0)  # of the mean photo
        second.bias.copy_(whole.bias + missing)
        self.linear = nn.Sequential(first, second)

    def save(self, folder: Path) -> None:
        """Write the tagger, and its image units in a folder of their own."""
        state = {name: value for name, value in self.state_dict().items() if not name.startswith("image_units.")}
        save_model(state, self.config, folder)
        self.image_units.save(folder / "image_units")

    @classmethod
    def load(cls, folder: Path) -> Tagger:
        """Read what `save` wrote, in evaluation mode."""
        units = ImageUnits.load(folder / "image_units")
        model = cls(load_config(folder, TaggerConfig), units.config)
        model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
        model.image_units = units
        return model.eval()
