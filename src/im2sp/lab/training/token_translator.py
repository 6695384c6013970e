"""A token ViT and a translator that learn together: image units -> vectors, augmented in training -> logits."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from im2sp.lab.models.saving import save_model
from im2sp.lab.models.token_vit import StemFromUnits, TokenVit
from im2sp.lab.models.translator import Translator, TranslatorConfig, untied
from im2sp.lab.training.token_augmentation import TokenAugmentation, TokenAugmenter

TOKEN_VIT = "token_vit"  # folder of the token ViT inside that of its translator
_OWN_PARTS = ("token_vit", "stem", "augmenter")


class TokenTranslator(Translator):
    """A translator that takes image units, int64 [P, units], in place of image features.

    Args:
        config: sizes of the translator; its image width is that of the token ViT.
        codebook: float32 [codes, code_width] of the tokenizer.
        grid: units a side of a photo.
    """

    def __init__(
        self, config: TranslatorConfig, token_vit: TokenVit, codebook: Tensor, grid: int, options: TokenAugmentation
    ) -> None:
        super().__init__(config)
        self.token_vit = token_vit
        self.stem = StemFromUnits(codebook, grid, token_vit.config.crop)
        self.augmenter = TokenAugmenter(codebook, grid, token_vit.config.crop, options)

    def prefix(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Image units int64 [P, units] -> keys and values [P, heads, N, head_dim] of every layer.

        In training the units are augmented, by random numbers that follow from those of torch.
        """
        if self.training:
            random = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
            vectors = self.augmenter(features, random)
        else:
            vectors = self.stem(features)
        return super().prefix(self.token_vit(vectors))

    def save(self, folder: Path) -> None:
        """Write the translator as any other, and the token ViT below it, which comes first: it is part of the whole."""
        self.token_vit.save(folder / TOKEN_VIT)
        state = {name: value for name, value in self.state_dict().items() if name.split(".")[0] not in _OWN_PARTS}
        save_model(untied(state, self.config), self.config, folder)
