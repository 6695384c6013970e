"""A translator together with the late part of its image backbone, so that both learn from captions."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from im2sp.files import replace_whole
from im2sp.train.models.git import GitDecoder, GitDecoderConfig, untied
from im2sp.train.models.image_backbone import LateBackbone
from im2sp.train.models.saving import save_model

_BELOW = "late_backbone"

TUNED_BACKBONE = "backbone.safetensors"


class SeeingTranslator(GitDecoder):
    """A translator that takes maps of the early backbone, [P, C, H / 16, W / 16], in place of image features.

    Args:
        share: of the learning rate that the late backbone gets.
    """

    def __init__(self, config: GitDecoderConfig, late_backbone: LateBackbone, share: float = 1.0) -> None:
        super().__init__(config)
        self._share = share
        self.late_backbone = late_backbone
        late_backbone.requires_grad_(True)
        late_backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in late_backbone.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                _in_float32(module)

    def prefix(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Maps of the early backbone -> keys and values [P, heads, N, head_dim] of every layer."""
        return super().prefix(self.late_backbone(features.contiguous(memory_format=torch.channels_last)))

    def learning_rate_share(self, name: str) -> float:
        """All of the learning rate for the translator, a share of it for the late backbone."""
        return self._share if name.startswith(f"{_BELOW}.") else 1.0

    def save(self, folder: Path) -> None:
        """Write the translator as any other, and the late backbone beside it, which comes first."""
        late = {name: value.contiguous() for name, value in self.late_backbone.state_dict().items()}
        with replace_whole(folder / TUNED_BACKBONE) as temporary:
            save_file(late, temporary)
        state = {name: value for name, value in self.state_dict().items() if not name.startswith(f"{_BELOW}.")}
        save_model(untied(state, self.config), self.config, folder)


def _in_float32(convolution: nn.Conv2d) -> None:
    """Keep a depthwise convolution out of bfloat16: its gradient is nine times slower there on a CPU."""
    narrow = convolution.forward

    def wide(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return narrow(x.float())

    convolution.forward = wide  # type: ignore[method-assign,assignment]
