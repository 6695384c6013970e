"""Small GIT models in the published layout, for several tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import GitConfig, GitForCausalLM
from transformers.modeling_outputs import BaseModelOutput

from im2sp.decoding.options import DecodingOptions
from tests.train.convert.published_image_models import TOKEN_VIT, token_vit

SIDE, PATCH = 48, 16
IMAGE_TOKENS = (SIDE // PATCH) ** 2 + 1
EOS = 102
POSITIONS = 64


class TokenVitEncoder(nn.Module):
    """What stands at `git.image_encoder` of the paper's code for image units."""

    def forward(self, vectors: Tensor, **_: object) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=token_vit()(vectors).float())


def random_git(seed: int = 0, *, tied: bool = False, sees_units: bool = False) -> GitForCausalLM:
    """A GIT with every option as published; its random weights say something different about every picture, and end.

    Args:
        sees_units: it has a token ViT in place of its image encoder.
    """
    torch.manual_seed(seed)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings = GitConfig(
        vision_config=vision | {"image_size": SIDE, "patch_size": PATCH},
        vocab_size=203,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=tied,
    )
    git = GitForCausalLM(settings).eval()
    if sees_units:
        git.git.visual_projection.visual_projection[0] = nn.Linear(TOKEN_VIT.width, 24)
    with torch.no_grad():
        for name, parameter in git.named_parameters():
            if "orm" not in name:  # LayerNorm, layer_norm1, pre_layrnorm
                parameter.normal_(std=0.4)
        if sees_units:
            git.git.image_encoder = TokenVitEncoder()
        if tied:
            git.output.weight = git.git.embeddings.word_embeddings.weight
        make_it_end(git.eval(), (8, 4, 4) if sees_units else (3, SIDE, SIDE))
    return git


@torch.no_grad()
def make_it_end(git: GitForCausalLM, shape: tuple[int, ...]) -> None:
    """Let positions be told apart, and give EOS the row under which its logit rises along a sentence.

    Args:
        shape: of what the image encoder takes, without the batch.
    """
    positions, width = git.config.max_position_embeddings, git.config.hidden_size
    clock = torch.linspace(0, 4, positions)[:, None] * torch.randn(width)
    git.git.embeddings.position_embeddings.weight += clock
    tokens = torch.randint(1, 100, (64, positions))
    hidden = git.git(input_ids=tokens, pixel_values=torch.randn(64, *shape)).last_hidden_state[:, -positions:]
    known = torch.cat([hidden, torch.ones(64, positions, 1)], -1).flatten(0, 1)
    wanted = torch.linspace(-4, 36, positions).repeat(64)[:, None]
    # The norm before makes the channels add up to a constant: without a ridge the row could be as large as it likes.
    row = torch.linalg.solve(known.T @ known + 10 * torch.eye(width + 1), known.T @ wanted)[:, 0]
    git.output.weight[EOS], git.output.bias[EOS] = row[:-1], row[-1]


def generated(git: GitForCausalLM, pixels: torch.Tensor, options: DecodingOptions, never: list[int]) -> list[int]:
    """What transformers says about a picture, from BOS to EOS, with the runtime's rules of decoding.

    Args:
        pixels: what its image encoder takes, without the batch.
        never: ids that the runtime never says; it normalises what is left.
    """
    found: list[int] = git.generate(
        pixel_values=pixels[None],
        num_beams=options.beam,
        max_new_tokens=options.max_tokens,
        min_new_tokens=options.min_tokens,
        length_penalty=options.length_penalty,
        suppress_tokens=never,
        renormalize_logits=True,
        early_stopping=options.early_stopping,
        do_sample=False,
    )[0].tolist()
    return found
