"""Small unit HiFi-GANs in the published layout: transformers has this vocoder in SeamlessM4T, torch weight norm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from transformers import SeamlessM4TConfig
from transformers.models.seamless_m4t.modeling_seamless_m4t import SeamlessM4THifiGan, SeamlessM4TVariancePredictor

from im2sp.train.convert.published import WEIGHT_NORM, renamed
from tests.tiny_bundle import UNITS

WIDTH = 8
CONFIG: dict[str, Any] = {  # the published config at a small size, with keys that we do not need
    "num_embeddings": UNITS,
    "embedding_dim": WIDTH,
    "model_in_dim": WIDTH,
    "upsample_rates": [5, 4, 4, 2, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4, 4],
    "upsample_initial_channel": 64,
    "resblock": "1",
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "dur_predictor_params": {
        "encoder_embed_dim": WIDTH,
        "var_pred_hidden_dim": WIDTH,
        "var_pred_kernel_size": 3,
        "var_pred_dropout": 0.5,
    },
    "code_hop_size": 320,
    "sampling_rate": 16000,
    "segment_size": 8960,
    "lambda_commit": None,
}
MANY_VOICES = CONFIG | {"multispkr": "_", "model_in_dim": 2 * WIDTH}
SPEAKERS = 5


class Reference(nn.Module):
    """A vocoder with random weights that is heard and stays away from the limits of tanh, where errors could hide."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = {name: config[name] for name in config if name.startswith(("upsample_", "resblock_"))}
        width = config["embedding_dim"]
        speaker_width = config["model_in_dim"] - width
        settings = SeamlessM4TConfig(
            unit_embed_dim=width, lang_embed_dim=0, spkr_embed_dim=speaker_width, var_pred_dropout=0.5, **sizes
        )
        self.dict = nn.Embedding(config["num_embeddings"], width)
        self.spkr = nn.Embedding(SPEAKERS, width) if speaker_width else None
        self.generator = SeamlessM4THifiGan(settings)
        self.dur_predictor = SeamlessM4TVariancePredictor(settings)
        for module in list(self.generator.modules()):
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                weight_norm(module)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.normal_(std=0.1 if name.endswith("bias") else 1.0)
                if name.endswith("original0"):
                    parameter.abs_().add_(0.5)
            self.generator.conv_post.parametrizations.weight.original0.fill_(0.08)
            self.generator.conv_post.bias.zero_()
            self.dur_predictor.proj.weight.mul_(0.2)
            self.dur_predictor.proj.bias.fill_(1.2)
        self.eval()

    def state(self) -> dict[str, Tensor]:
        """Weights under every name of the published checkpoint."""
        state = renamed(self.state_dict(), {"generator.": "", "upsampler.": "ups."} | WEIGHT_NORM)
        return {re.sub(r"(dur_predictor\.conv\d)", r"\1.0", name): tensor for name, tensor in state.items()}

    @torch.inference_mode()
    def forward(self, units: Tensor, speaker: int = 0) -> tuple[Tensor, Tensor]:
        """Units int64 [U] -> waveform [U * 320] and log durations [U]."""
        embedded = self.dict(units)[None]
        voice = [] if self.spkr is None else [self.spkr.weight[speaker].expand(1, len(units), -1)]
        waveform = self.generator(torch.cat([embedded, *voice], 2).transpose(1, 2)).flatten()
        return waveform, self.dur_predictor(embedded)[0]


def write_published(folder: Path, config: dict[str, Any], state: dict[str, Any]) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"generator": state}, folder / "g_00500000")
    return folder / "config.json", folder / "g_00500000"
