"""Published SeiT checkpoints, through the command, against transformers; what is not one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from im2sp.train.convert.seit import convert_seit
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.models.token_vit import TokenVit
from tests.train.convert.published_files import run_convert
from tests.train.convert.published_image_models import TOKEN_VIT, features, token_vit_state


def write_published(path: Path, **changes: Tensor | None) -> Path:
    content = {name: tensor for name, tensor in (token_vit_state() | changes).items() if tensor is not None}
    torch.save({"model": content, "optimizer": {"lr": 0.1}, "epoch": 3}, path)
    return path


def test_the_command_makes_a_token_vit_that_agrees_with_transformers(tmp_path: Path) -> None:
    result = run_convert("seit", write_published(tmp_path / "seit.pth"), "-o", tmp_path / "out")
    assert "4 x 4 units become 5 image tokens of 128" in result.output
    model = TokenVit.load(tmp_path / "out")
    assert model.config == TOKEN_VIT
    vectors = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(8))
    expected = features(vectors)
    with torch.inference_mode():
        assert (model(vectors) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"patch_embed.proj.weight": torch.zeros(128, 8, 3, 3)}, "kernel 3"),
        ({"pos_embed": torch.zeros(1, 4, 128)}, "3 places"),
        ({"blocks.1.attn.qkv.bias": None}, r"lacks blocks\.1\.attn\.qkv\.bias"),
        ({"fc_norm.weight": torch.zeros(128)}, "unknown 'fc_norm"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(changes: dict[str, Tensor | None], why: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=why):
        convert_seit(write_published(tmp_path / "seit.pth", **changes))
