"""Published HuBERT (transformers layout) and k-means centres -> our SpeechEncoder (docs/reference-formats.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator
from transformers import HubertConfig, HubertModel

from im2sp.speech.audio import HOP
from im2sp.train.convert.checkpoints import read_matrix, read_state_dict, weights_file
from im2sp.train.convert.published import (
    WEIGHT_NORM,
    PublishedTransformer,
    Size,
    read_config,
    renamed,
    with_weights,
)
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.models.speech_encoder import Clusters, SpeechEncoder

CENTRES = "cluster_centers_"  # scikit-learn's name, and that of dicts made from it

Convolutions = Annotated[tuple[Size, ...], Field(min_length=1, max_length=32)]


class PublishedHubert(PublishedTransformer):
    """The fields of a HuBERT's config.json that are read. Defaults: the base model, as in transformers."""

    model_type: Literal["hubert"]
    hidden_act: Literal["gelu"] = "gelu"
    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_extract_activation: Literal["gelu"] = "gelu"
    feat_proj_layer_norm: bool = True
    conv_dim: Convolutions = (512,) * 7
    conv_stride: Convolutions = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: Convolutions = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: Size = 128
    num_conv_pos_embedding_groups: Size = 16
    do_stable_layer_norm: bool = False

    @model_validator(mode="after")
    def _supported(self) -> PublishedHubert:
        if self.do_stable_layer_norm:
            raise ValueError("this HuBERT needs normalised waveforms, which im2sp does not give it")
        if np.prod(self.conv_stride, dtype=object) != HOP:
            raise ValueError(f"its frames are not {HOP} samples apart")
        return self


def convert_hubert(folder: Path, clusters: Path, layer: int = 6) -> SpeechEncoder:
    """Convert a published HuBERT, cut after the layer that is used, with its k-means units.

    Args:
        folder: `config.json` and `model.safetensors` or `pytorch_model.bin`, as transformers writes them.
        clusters: a pickle or joblib file of scikit-learn's KMeans or MiniBatchKMeans, or its centres [units, width] as
            an array.
        layer: index into `hidden_states`; 6 is what the paper uses.

    Raises:
        CheckpointError: something is missing, damaged, hostile, or does not fit together.
    """
    if not (folder / "config.json").exists():
        raise CheckpointError(
            f"{folder} has no config.json: give a folder in the layout of transformers, such as that of "
            "facebook/hubert-base-ls960, which is fairseq's hubert_base_ls960.pt"
        )
    config = read_config(folder / "config.json", PublishedHubert)
    if not 1 <= layer <= config.num_hidden_layers:
        raise CheckpointError(f"layer {layer} does not exist: this HuBERT has layers 1 to {config.num_hidden_layers}")
    centres = read_matrix(clusters, "k-means centres", CENTRES).numpy()
    if centres.shape[1] != config.hidden_size:
        raise CheckpointError(
            f"{clusters} has centres of {centres.shape[1]} numbers where {folder} has features of "
            f"{config.hidden_size}: give the k-means that was trained on this HuBERT"
        )
    path = weights_file(folder)
    state = renamed(read_state_dict(path), {old: new for new, old in WEIGHT_NORM.items()})
    masked = 0.05 if "masked_spec_embed" in state else 0.0  # decides whether the mask embedding exists

    def build() -> HubertModel:
        return HubertModel(HubertConfig(**config.model_dump(), mask_time_prob=masked, attn_implementation="sdpa"))

    hubert = with_weights(build, state, path)
    return SpeechEncoder(hubert, layer, padding=0, clusters=Clusters.around(centres)).eval()
