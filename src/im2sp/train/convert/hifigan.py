"""Published unit HiFi-GAN, `config.json` and `{"generator": ...}` -> our UnitHifigan (docs/reference-formats.md)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from im2sp.speech.audio import HOP, SAMPLE_RATE
from im2sp.train.convert.checkpoints import read_state_dict
from im2sp.train.convert.published import PublishedConfig, Size, fold_weight_norm, read_config, with_weights
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.models.unit_hifigan import UnitHifigan, UnitHifiganConfig

Sizes = Annotated[tuple[Size, ...], Field(min_length=1, max_length=16)]


class DurationParameters(PublishedConfig):
    """Sizes of the duration predictor."""

    var_pred_hidden_dim: Size
    var_pred_kernel_size: Size
    var_pred_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5


class PublishedHifigan(PublishedConfig):
    """The fields of a unit HiFi-GAN's config.json that are read."""

    num_embeddings: Size
    embedding_dim: Size
    upsample_rates: Sizes
    upsample_kernel_sizes: Sizes
    upsample_initial_channel: Size
    resblock: Literal["1", 1] = "1"
    resblock_kernel_sizes: Sizes
    resblock_dilation_sizes: Annotated[tuple[Sizes, ...], Field(min_length=1, max_length=16)]
    dur_predictor_params: DurationParameters
    multispkr: str | bool | None = None  # published files have text such as "_" or true
    embedder_params: object = None
    f0: object = None
    code_hop_size: Literal[HOP] = HOP  # type: ignore[valid-type]
    sampling_rate: Literal[SAMPLE_RATE] = SAMPLE_RATE  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _supported(self) -> PublishedHifigan:
        if self.embedder_params or self.f0:
            raise ValueError("it needs speaker vectors or pitch beside the units, which im2sp does not give it")
        if math.prod(self.upsample_rates) != self.code_hop_size:
            raise ValueError("the product of upsample_rates is not code_hop_size")
        pairs = zip(self.upsample_rates, self.upsample_kernel_sizes, strict=False)
        kernels = (*self.resblock_kernel_sizes, self.dur_predictor_params.var_pred_kernel_size)
        if any(kernel < rate or (kernel - rate) % 2 for rate, kernel in pairs) or not all(size % 2 for size in kernels):
            raise ValueError("a kernel does not give a whole number of samples")
        return self


def convert_hifigan(config: Path, checkpoint: Path) -> UnitHifigan:
    """Convert a published unit HiFi-GAN with its duration predictor, of one voice or several.

    Raises:
        CheckpointError: a file is missing, damaged, hostile, or does not fit the other.
    """
    published = read_config(config, PublishedHifigan)
    state = fold_weight_norm(read_state_dict(checkpoint, "generator"), checkpoint)
    speakers = 0
    if published.multispkr:
        if "spkr.weight" not in state:
            raise CheckpointError(f"{checkpoint} lacks spkr.weight: is it the checkpoint of this config?")
        speakers = len(state["spkr.weight"])  # the configs do not say how many
    durations = published.dur_predictor_params
    sizes = UnitHifiganConfig(
        units=published.num_embeddings,
        speakers=speakers,
        width=published.embedding_dim,
        upsample_rates=published.upsample_rates,
        upsample_kernels=published.upsample_kernel_sizes,
        channels=published.upsample_initial_channel,
        block_kernels=published.resblock_kernel_sizes,
        block_dilations=published.resblock_dilation_sizes,
        duration_width=durations.var_pred_hidden_dim,
        duration_kernel=durations.var_pred_kernel_size,
        duration_dropout=durations.var_pred_dropout,
    )
    return with_weights(lambda: UnitHifigan(sizes), state, checkpoint)
