"""Training of the image tokenizer: photos -> `VitVqgan`.

Units are chosen in the forward pass and skipped in the backward pass (straight-through). Reconstructions are compared
with the photos by pixels and by the features of a frozen image network; there is no discriminator. Codes that no patch
chooses are moved onto outputs of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from im2sp.image.loading import load_image, to_pixels
from im2sp.train.data.photo_units import random_crop
from im2sp.train.models.image_backbone import ImageBackbone
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.trainer import Losses, MicroBatch, Task, TrainConfig, Update, adamw

CODEBOOK = "codebook.weight"


@dataclass(frozen=True)
class VitVqganTraining(TrainConfig):
    """Options of the image tokenizer."""

    steps: int = 6000
    learning_rate: float = 5e-4
    warm_up: int = 200
    batch: int = 16
    smallest_crop: float = 0.6  # fraction of a photo's area
    commitment: float = 0.25  # weight of pulling the encoder to the codes, against pulling the codes to the encoder
    perceptual_weight: float = 0.3  # against the errors of pixels
    revive_every: int = 50  # steps; a code that was not chosen in that time is moved


class Quantised(NamedTuple):
    """A batch after the codebook."""

    units: Tensor  # int64 [B, N]
    directions: Tensor  # float32 [B, N, code_width]: of the codes forwards, of the encoder's outputs backwards
    loss: Tensor  # squared distances between both


def quantise(model: VitVqgan, outputs: Tensor, commitment: float) -> Quantised:
    """Straight-through quantisation of the encoder's outputs float32 [B, N, code_width]."""
    units = model.nearest(outputs.detach())
    ours = F.normalize(outputs, dim=-1)
    codes = F.normalize(model.codebook(units), dim=-1)
    to_codes = (codes - ours.detach()).square().sum(-1).mean()
    to_encoder = (ours - codes.detach()).square().sum(-1).mean()
    return Quantised(units, ours + (codes - ours).detach(), to_codes + commitment * to_encoder)


def perceptual_distance(backbone: ImageBackbone, made: Tensor, photos: Tensor) -> Tensor:
    """Squared distance between the directions of a frozen network's features, averaged over its stages.

    Args:
        made, photos: pixels [B, 3, H, W] in [0, 1].
    """

    def stages(pixels: Tensor) -> list[Tensor]:
        # depthwise convolutions are fastest in this layout on a CPU
        normalised = backbone.normalised(pixels).contiguous(memory_format=torch.channels_last)
        return [F.normalize(features.float(), dim=1) for features in backbone.stages(normalised)]

    with torch.no_grad():
        wanted = stages(photos)
    return torch.stack([(a - b).square().sum(1).mean() for a, b in zip(stages(made), wanted, strict=True)]).mean()


def resized_pixels(image: Image.Image, side: int) -> Tensor:
    """Resize an RGB image (bicubic) to a square: float32 [3, side, side] in [0, 1], no mean or std."""
    return torch.from_numpy(to_pixels(image, side, side, (0.0,) * 3, (1.0,) * 3))


class VitVqganTask(Task):
    """Image tokenizer.

    Args:
        photos: paths; a step crops each photo of its batch at random and mirrors half of them.
        backbone: frozen network of the perceptual loss.
    """

    config: VitVqganTraining
    model: VitVqgan

    def __init__(
        self, config: VitVqganTraining, model: VitVqgan, photos: Sequence[Path], backbone: ImageBackbone
    ) -> None:
        super().__init__(config, model)
        self.photos, self.backbone = photos, backbone.eval().requires_grad_(False)
        # Only the direction of a code counts, so weight decay would only change what a token ViT reads.
        optimizer = adamw([model], config, (0.9, 0.99), decays=lambda name, value: value.dim() > 1 and name != CODEBOOK)
        self.optimizers = {"model": optimizer}
        self.recent = torch.zeros(model.config.codebook_size, dtype=torch.int64)  # choices since codes were last moved

    def pixels(self, step: int, part: MicroBatch) -> Tensor:
        """Crops of a micro-batch float32 [B, 3, side, side] in [0, 1]; each photo comes once an epoch.

        Raises ImageError when a photo cannot be read.
        """
        config, side = self.config, self.model.config.image_size
        crops = []
        places = range(step * config.batch, (step + 1) * config.batch)
        for place in places[part.rows(config.batch)]:
            epoch, index = divmod(place, len(self.photos))
            order = np.random.default_rng((config.seed, 0, epoch)).permutation(len(self.photos))
            random = np.random.default_rng((config.seed, 1, place))
            image = load_image(self.photos[order[index]])
            crop = random_crop(image, random, math.sqrt(random.uniform(config.smallest_crop, 1)))
            crops.append(resized_pixels(ImageOps.mirror(crop) if random.random() < 0.5 else crop, side))
        return torch.stack(crops).to(self.device)

    def updates(self, step: int) -> Sequence[Update]:
        """The one of the tokenizer, after codes have been moved."""
        if step % self.config.revive_every == 0:
            self.revive(step)
        return super().updates(step)

    def loss(self, step: int, part: MicroBatch) -> Losses:
        """Errors of pixels, of perceptual features and of codes."""
        config, photos = self.config, self.pixels(step, part)
        with self.autocast():
            outputs = self.model.before_codes(photos)
        quantised = quantise(self.model, outputs.float(), self.config.commitment)
        with self.autocast():
            made = self.model.pixels_of(quantised.directions).float()
        chosen = torch.bincount(quantised.units.flatten(), minlength=len(self.recent))
        self.recent += self.sum_over_processes(chosen).cpu()
        with self.autocast():
            perceptual = perceptual_distance(self.backbone.to(self.device), made, photos)
        pixels = (made - photos).abs().mean() + (made - photos).square().mean()
        losses = {"pixels": pixels, "perceptual": perceptual, "codes": quantised.loss}
        losses["loss"] = pixels + config.perceptual_weight * perceptual + quantised.loss
        share = part.share(config.batch)
        return {name: value * share for name, value in losses.items()}

    @torch.no_grad()
    def revive(self, step: int) -> None:
        """Move the codes that no patch chose lately onto outputs of the encoder; at the start, all of them."""
        dead = (self.recent == 0).nonzero()[:, 0].to(self.device)
        self.recent.zero_()
        outputs = self.model.before_codes(self.pixels(step, MicroBatch())).float().flatten(0, 1)
        random = np.random.default_rng((self.config.seed, 2, step))
        drawn = outputs[random.choice(len(outputs), len(dead), replace=len(dead) > len(outputs))]
        self.model.codebook.weight[dead] = drawn
        self.ema[CODEBOOK][dead] = drawn
        for moment in self.optimizers["model"].state[self.model.codebook.weight].values():
            if moment.shape == self.model.codebook.weight.shape:
                moment[dead] = 0

    def state_dict(self) -> dict[str, Any]:
        """How often codes were chosen."""
        return {"recent": self.recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.recent = state["recent"].cpu()
