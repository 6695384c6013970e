"""Translators that read image units, augmented in training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from im2sp.train.data.token_augmentation import SemanticAugmenter, TokenAugmentation, TokenAugmenter
from im2sp.train.models.git import GitDecoder, GitDecoderConfig, untied
from im2sp.train.models.saving import save_model
from im2sp.train.models.semantic_units import SemanticUnits
from im2sp.train.models.token_vit import StemFromUnits, TokenVit

TOKEN_VIT = "token_vit"  # folder of the token ViT inside that of its translator
_OWN_PARTS = ("token_vit", "stem", "augmenter", "quantiser")


def _random() -> torch.Generator:
    """Random numbers of an augmentation, which follow from those of torch."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))


def _without_own_parts(model: GitDecoder) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.split(".")[0] not in _OWN_PARTS}


class TokenTranslator(GitDecoder):
    """A token ViT and a translator that learn together: image units int64 [P, units] in place of image features.

    Args:
        config: sizes of the translator; its image width is that of the token ViT.
        codebook: float32 [codes, code_width] of the tokenizer.
        grid: units a side of a photo.
    """

    def __init__(
        self, config: GitDecoderConfig, token_vit: TokenVit, codebook: Tensor, grid: int, options: TokenAugmentation
    ) -> None:
        super().__init__(config)
        self.token_vit = token_vit
        self.stem = StemFromUnits(codebook, grid, token_vit.config.crop)
        self.augmenter = TokenAugmenter(codebook, grid, token_vit.config.crop, options)

    def prefix(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Units int64 [P, units], augmented in training -> keys and values [P, heads, N, head_dim] of every layer."""
        vectors = self.augmenter(features, _random()) if self.training else self.stem(features)
        return super().prefix(self.token_vit(vectors))

    def save(self, folder: Path) -> None:
        """Write the translator as any other, and the token ViT below it, which comes first: it is part of the whole."""
        self.token_vit.save(folder / TOKEN_VIT)
        save_model(untied(_without_own_parts(self), self.config), self.config, folder)


class SemanticTranslator(GitDecoder):
    """A translator that reads semantic image units, int64 [P, cells * levels], and is saved as one of their features.

    Args:
        config: sizes of the translator; its image width is that of the quantiser's features.
    """

    def __init__(self, config: GitDecoderConfig, quantiser: SemanticUnits, options: TokenAugmentation) -> None:
        super().__init__(config)
        self.quantiser = quantiser.requires_grad_(False)
        self.augmenter = SemanticAugmenter(quantiser.codebooks, options)

    def prefix(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Units int64 [P, units], augmented in training -> keys and values [P, heads, cells, head_dim] a layer."""
        seen = self.augmenter(features, _random()) if self.training else self.quantiser.features(features)
        return super().prefix(seen)

    def save(self, folder: Path) -> None:
        """Write the translator as any other."""
        save_model(untied(_without_own_parts(self), self.config), self.config, folder)
