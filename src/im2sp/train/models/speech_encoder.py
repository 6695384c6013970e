"""Speech encoder: waveform -> HuBERT features -> k-means units at 50 Hz (Hsu et al., 2021; Lakhotia et al., 2021)."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel
from transformers.utils import logging as transformers_logging

from im2sp.files import atomic_write, write_json
from im2sp.speech.audio import HOP
from im2sp.train.models.mfcc import MFCC

transformers_logging.disable_progress_bar()  # of every file that is loaded or saved

CONFIG, CLUSTERS = "speech_encoder.json", "clusters.safetensors"  # beside HuBERT in the folder of a speech encoder


def small_hubert_config(layers: int = 6, width: int = 256, heads: int = 4) -> HubertConfig:
    """Our HuBERT: four convolutions instead of seven, and a transformer that two cores can train in an hour.

    The product of the strides is HOP (320), so frames come at 50 Hz like the published model's.
    """
    return HubertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        conv_dim=(192, width, width, width),
        conv_kernel=(40, 8, 4, 4),
        conv_stride=(20, 4, 2, 2),
        num_feat_extract_layers=4,
        feat_extract_norm="layer",  # per frame: the same features whatever the batch or the padding
        conv_bias=True,
        num_conv_pos_embeddings=64,
        num_conv_pos_embedding_groups=16,
        layerdrop=0.0,
        hidden_dropout=0.05,
        attention_dropout=0.05,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        mask_time_prob=0.08,  # > 0 so that the mask embedding exists; the training loop chooses the masks itself
        attn_implementation="sdpa",
    )


def edge_padding(config: HubertConfig) -> int:
    """Zeros [samples] to add on each side so that n * HOP samples give exactly n frames, centred on their samples."""
    receptive, stride = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        receptive += (kernel - 1) * stride
        stride *= step
    return (receptive - stride) // 2


def up_to_layer(hubert: HubertModel, layer: int) -> HubertModel:
    """Copy a HuBERT without the layers after `layer`, which `hidden_states[layer]` does not depend on."""
    if layer == len(hubert.encoder.layers):
        return hubert
    cut = copy.deepcopy(hubert)
    cut.encoder.layers = cut.encoder.layers[:layer]
    cut.config.num_hidden_layers = layer
    return cut


def smooth(features: Tensor, frames: int) -> Tensor:
    """Average features [B, n, width] over an odd number of frames; at the ends over those that there are."""
    if frames == 1:
        return features
    pooled = nn.functional.avg_pool1d(features.transpose(1, 2), frames, 1, frames // 2, count_include_pad=False)
    return pooled.transpose(1, 2)


@dataclass(frozen=True)
class Clusters:
    """k-means clusters as a linear classifier: the nearest centre is where `features @ weight.T + offset` is largest.

    |f|^2 is the same for every centre c, so the nearest has the largest 2 f.c - |c|^2. A scale of each feature folds
    into the weight.

    Attributes:
        weight: float32 [units, width].
        offset: float32 [units].
    """

    weight: np.ndarray
    offset: np.ndarray

    @classmethod
    def around(cls, centres: np.ndarray, scale: np.ndarray | None = None) -> Clusters:
        """Make clusters of centres [units, width] of features that were multiplied by `scale` [width]."""
        weight = 2 * centres if scale is None else 2 * centres * scale
        return cls(weight.astype(np.float32), -(centres.astype(np.float64) ** 2).sum(1).astype(np.float32))

    def __len__(self) -> int:
        return len(self.weight)

    def assign(self, features: np.ndarray) -> np.ndarray:
        """Cluster of each row of features [n, width]: int16 [n]."""
        return (features @ self.weight.T + self.offset).argmax(1).astype(np.int16)

    def save(self, path: Path) -> None:
        """Write the arrays `weight` and `offset`."""
        with atomic_write(path) as temporary:
            save_file({"weight": self.weight, "offset": self.offset}, temporary)

    @classmethod
    def load(cls, path: Path) -> Clusters:
        """Read what `save` wrote."""
        return cls(**load_file(path))


class SpeechEncoder(nn.Module):
    """HuBERT up to one layer, then the nearest k-means centre.

    Args:
        hubert: ours or a published one in transformers layout.
        layer: index into `hidden_states` (6 for the published base model; 0 is the input of the first layer).
        padding: zeros on each side of the waveform: `edge_padding(config)` for our own models, 0 for published ones.
        smoothing: odd number of frames over which features are averaged before the nearest centre is looked up; 1 for
            published models. A small HuBERT's features jitter from frame to frame; averaging lowers the rate of units.
        mfcc: whether MFCCs are appended to the features.
        clusters: the speech units, or None when only features are wanted.
    """

    weight: Tensor
    offset: Tensor

    def __init__(
        self,
        hubert: HubertModel,
        layer: int,
        padding: int,
        smoothing: int = 1,
        mfcc: bool = False,
        clusters: Clusters | None = None,
    ) -> None:
        super().__init__()
        self.mfcc = MFCC() if mfcc else None
        self.hubert, self.layer, self.padding, self.smoothing = (
            up_to_layer(hubert, layer).eval(),
            layer,
            padding,
            smoothing,
        )
        if clusters is not None:
            self.register_buffer("weight", torch.from_numpy(clusters.weight))
            self.register_buffer("offset", torch.from_numpy(clusters.offset))

    def features(self, waveform: Tensor) -> Tensor:
        """Waveform float32 [B, samples] at 16 kHz, all of one length -> features [B, frames, width], HuBERT's first."""
        padded = nn.functional.pad(waveform, (self.padding, self.padding))
        hidden: Tensor = self.hubert(padded, output_hidden_states=True).hidden_states[self.layer]
        if self.mfcc is not None:
            hidden = torch.cat([hidden.float(), self.mfcc(waveform)], -1)
        return smooth(hidden, self.smoothing)

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveform float32 [B, samples] -> units int64 [B, frames], repeats kept."""
        return self.nearest(self.features(waveform))

    def nearest(self, features: Tensor) -> Tensor:
        """Features float32 [B, frames, width] -> units int64 [B, frames]. Not under autocast: ranking needs float32."""
        return (features @ self.weight.T + self.offset).argmax(-1)

    @property
    def units(self) -> int:
        """How many speech units there are."""
        return len(self.offset)

    def save(self, folder: Path) -> None:
        """Write HuBERT in transformers layout, and clusters.safetensors + speech_encoder.json beside it."""
        self.hubert.save_pretrained(folder)
        Clusters(self.weight.numpy(), self.offset.numpy()).save(folder / CLUSTERS)
        options = {"layer": self.layer, "padding": self.padding, "smoothing": self.smoothing}
        write_json(folder / CONFIG, options | {"mfcc": self.mfcc is not None})

    @classmethod
    def load(cls, folder: Path) -> SpeechEncoder:
        """Read what `save` wrote."""
        options = json.loads((folder / CONFIG).read_text())
        clusters = Clusters.load(folder / CLUSTERS)
        return cls(HubertModel.from_pretrained(folder), **options, clusters=clusters)


def whole_frames(waveform: np.ndarray) -> np.ndarray:
    """Waveform cut to whole frames of HOP samples."""
    return waveform[: len(waveform) // HOP * HOP]
