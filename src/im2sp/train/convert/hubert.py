"""Published HuBERT (transformers layout) and k-means centres -> our SpeechEncoder (docs/reference-formats.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator
from transformers import HubertConfig, HubertModel

from im2sp.arrays import FloatArray
from im2sp.speech.audio import HOP
from im2sp.train.convert.checkpoints import StateDict, as_tensor, read_checkpoint, read_state_dict, weights_file
from im2sp.train.convert.published import Epsilon, Layers, PublishedConfig, Size, plain, read_config, with_weights
from im2sp.train.convert.unpickling import AttributeBag, CheckpointError
from im2sp.train.models.speech_encoder import Clusters, SpeechEncoder

FAIRSEQ = frozenset({"mask_emb", "label_embs_concat"})  # a HuBERT in fairseq's own layout has these in its "model"
HEADS = ("lm_head.", "projector.", "classifier.")  # of recognisers and classifiers on top; not needed
CENTRES = "cluster_centers_"  # scikit-learn's name, and that of dicts and archives made from it
WEIGHT_NORM = {  # torch renamed what weight norm keeps; published files have the old names
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}

Convolutions = Annotated[tuple[Size, ...], Field(min_length=1, max_length=32)]


class PublishedHubert(PublishedConfig):
    """The fields of a HuBERT's config.json that are read. Defaults: the base model, as in transformers."""

    model_type: Literal["hubert"]
    hidden_size: Size = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    hidden_act: Literal["gelu"] = "gelu"
    layer_norm_eps: Epsilon = 1e-5
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
        if not len(self.conv_dim) == len(self.conv_stride) == len(self.conv_kernel):
            raise ValueError("conv_dim, conv_stride and conv_kernel differ in length")
        if np.prod(self.conv_stride, dtype=object) != HOP:
            raise ValueError(f"its frames are not {HOP} samples apart")
        if self.hidden_size % self.num_attention_heads or self.hidden_size % self.num_conv_pos_embedding_groups:
            raise ValueError("hidden_size cannot be divided by the heads or groups")
        return self


def convert_hubert(folder: Path, clusters: Path, layer: int = 6) -> SpeechEncoder:
    """Convert a published HuBERT, cut after the layer that is used, with its k-means units.

    Args:
        folder: `config.json` and `model.safetensors` or `pytorch_model.bin`, as transformers writes them.
        clusters: what `read_centres` reads.
        layer: index into `hidden_states`; 6 is what the paper uses.

    Raises:
        CheckpointError: something is missing, damaged, hostile, or does not fit together.
    """
    if not (folder / "config.json").exists():
        _refuse_fairseq(folder)
    config = read_config(folder / "config.json", PublishedHubert)
    if not 1 <= layer <= config.num_hidden_layers:
        raise CheckpointError(f"layer {layer} does not exist: this HuBERT has layers 1 to {config.num_hidden_layers}")
    centres = read_centres(clusters)
    if centres.shape[1] != config.hidden_size:
        raise CheckpointError(
            f"{clusters} has centres of {centres.shape[1]} numbers where {folder} has features of "
            f"{config.hidden_size}: give the k-means that was trained on this HuBERT"
        )
    path = weights_file(folder)
    state = _own_names(read_state_dict(path))
    masked = 0.05 if "masked_spec_embed" in state else 0.0  # decides whether the mask embedding exists
    settings = HubertConfig(**config.model_dump(), mask_time_prob=masked, attn_implementation="sdpa")
    hubert = with_weights(lambda: HubertModel(settings), state, path)
    return SpeechEncoder(hubert, layer, padding=0, clusters=Clusters.around(centres)).eval()


def _refuse_fairseq(given: Path) -> None:
    """Say what fairseq's own checkpoint is, where it is given as a file or in its folder, and what to give instead."""
    for path in [given] if given.is_file() else sorted(given.glob("*.pt")):
        value = read_checkpoint(path)
        model = value.get("model") if isinstance(value, dict) else None
        if isinstance(model, dict) and not FAIRSEQ.isdisjoint(model):
            raise CheckpointError(
                f"{path} is a HuBERT in the layout of fairseq, which im2sp does not read: give the same model as "
                "transformers has it, for hubert_base_ls960.pt the folder of facebook/hubert-base-ls960"
            )


def _own_names(state: StateDict) -> StateDict:
    plain_names = {name.removeprefix("hubert."): tensor for name, tensor in state.items() if not name.startswith(HEADS)}
    return {WEIGHT_NORM.get(name, name): tensor for name, tensor in plain_names.items()}


def read_centres(path: Path) -> FloatArray:
    """Read k-means centres float32 [units, width].

    Args:
        path: a pickle or joblib file of scikit-learn's KMeans or MiniBatchKMeans, an array as .npy, .safetensors or
            .pt, or a dict or .npz archive of arrays: its `cluster_centers_`, or its only one.

    Raises:
        CheckpointError: there is no such array.
    """
    value = read_checkpoint(path)
    if isinstance(value, AttributeBag):
        value = value.attribute(CENTRES)
    elif isinstance(value, dict):
        value = value.get(CENTRES, next(iter(value.values())) if len(value) == 1 else None)
    tensor = as_tensor(value)
    if tensor is None or tensor.ndim != 2 or min(tensor.shape) < 1 or not tensor.is_floating_point():
        raise CheckpointError(f"{path} has no k-means centres [units, width]: give a KMeans pickle or an array file")
    centres: FloatArray = plain(tensor).numpy()
    if not np.isfinite(centres).all():
        raise CheckpointError(f"{path} has k-means centres that are not numbers: get the file again")
    return centres
