"""The formulas of a plan against models that are really built and run, as torch counts their operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from im2sp.lab import precision
from im2sp.lab.convert.git import GitVision, PublishedVision
from im2sp.lab.models.token_vit import TokenVit, TokenVitConfig
from im2sp.lab.models.translator import Translator, TranslatorConfig
from im2sp.lab.planning.arithmetic import Batch, Decoder, Layers
from im2sp.lab.planning.plan import PROJECTION, token_vit_encoder, vision_encoder
from im2sp.lab.stages.translate import freeze
from im2sp.lab.training.translator import next_token_loss

FLOPS_TOLERANCE = 1e-3  # nothing is left out of either count
MEMORY_TOLERANCE = 0.03


def counted(run: Callable[[], object]) -> int:
    """FLOPs, with attention as plain products of matrices: torch does not count all fused kernels of a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def inputs(batch: Batch, image_tokens: int, image_width: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    features = torch.randn(batch.photos, image_tokens, image_width)
    tokens = torch.randint(3, 203, (batch.captions, batch.tokens))
    return features, tokens, torch.arange(batch.captions) * batch.photos // batch.captions


@pytest.mark.parametrize("frozen", [(), PROJECTION])
@pytest.mark.parametrize("batch", [Batch(2, 4, 24), Batch(3, 3, 50)])
def test_a_step_of_the_translator(batch: Batch, frozen: tuple[str, ...]) -> None:
    sizes = TranslatorConfig(203, image_width=96, width=64, layers=3, heads=4, feed_forward=192, max_positions=64)
    model = Translator(sizes).train()
    freeze(model, frozen)
    decoder = Decoder(Layers(3, 64, 192), 37, 96, 203, projection_trained=not frozen)
    given, losses = inputs(batch, 37, 96), []
    forward = counted(lambda: losses.append(model(*given).logsumexp(-1).sum()))
    assert decoder.forward(batch) == pytest.approx(forward, rel=FLOPS_TOLERANCE)
    assert decoder.backward(batch) == pytest.approx(counted(losses[0].backward), rel=FLOPS_TOLERANCE)


def test_image_encoders() -> None:
    vision = PublishedVision(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=48, patch_size=16
    )
    git = GitVision(vision).eval()
    found = counted(lambda: git(torch.zeros(1, 3, 48, 48)))
    assert vision_encoder(vision).forward() == pytest.approx(found, rel=FLOPS_TOLERANCE)
    sizes = TokenVitConfig(code_width=8, crop=12, width=32, layers=2, heads=4, feed_forward=96)
    vit = TokenVit(sizes).eval()
    found = counted(lambda: vit(torch.zeros(1, 8, 12, 12)))
    assert token_vit_encoder(sizes).forward() == pytest.approx(found, rel=FLOPS_TOLERANCE)


@pytest.mark.parametrize(
    ("batch", "image_tokens"), [(Batch(4, 4, 64), 64), (Batch(2, 2, 64), 197), (Batch(4, 16, 96), 32)]
)
def test_what_is_kept_for_the_backward_pass(batch: Batch, image_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU keeps it, but for two things in which a CPU differs. Without dropout: its masks have more than a byte
    each, and attention with it is not fused. And autocast leaves the image tokens in bfloat16 there: no casts, and
    norms that keep 2 bytes, which makes 8 bytes less a channel.
    """
    monkeypatch.setattr(precision, "fast_bfloat16", lambda: True)  # in bfloat16, whatever this processor is fast at
    sizes = TranslatorConfig(
        203, image_width=320, width=192, feed_forward=768, max_positions=100, dropout=0.0, image_dropout=0.0
    )
    model = Translator(sizes).train()
    features, tokens, photo = inputs(Batch(batch.photos, batch.captions, batch.tokens + 1), image_tokens, 320)
    found = kept(lambda: next_token_loss(model, features, tokens, photo, 0.0), model)
    decoder = Decoder(Layers(4, 192, 768), image_tokens, 320, 203)
    masks = 4 * 2 * 192 * (batch.photos * image_tokens + batch.captions * batch.tokens)
    casts = 4 * 8 * 192 * batch.photos * image_tokens
    estimate = decoder.activations(batch) - masks - casts
    assert estimate == pytest.approx(found, rel=MEMORY_TOLERANCE)


def kept(run: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes that autograd keeps, weights and their copies in bfloat16 aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {shape for parameter in model.parameters() for shape in (parameter.shape, parameter.shape[::-1])}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own and tensor.shape not in shapes:
            found.setdefault(tensor.untyped_storage().data_ptr(), tensor)  # kept, so that no other gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())
