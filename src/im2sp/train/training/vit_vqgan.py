"""ViT-VQGAN training: photos -> an image tokenizer.

Units are chosen in the forward pass and passed by in the backward pass (straight-through). The pictures that come back
are compared pixel by pixel and by what a frozen image network sees in them, and at last by a judge that learns to tell
them from photos. Codes that nothing chooses are moved to where the encoder's outputs are.

With few steps, codes had better come in late (`codes_from`): from the first step on, codes and encoder soon agree on
one direction for everything, and it takes hundreds of steps until pictures part them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.train.models.image_backbone import ImageBackbone
from im2sp.train.models.saving import CONFIG
from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig
from im2sp.train.precision import products
from im2sp.train.training.averaging import follow
from im2sp.train.training.photo_crops import PhotoCrops
from im2sp.train.training.progress import Checkpoint, TrainingLog, warm_up_cosine

CODEBOOK = "codebook.weight"


@dataclass(frozen=True)
class VitVqganTraining:
    """Options of one training run."""

    steps: int = 6000
    codes_from: int = 0  # step at which codes come in; up to there, what the encoder gives passes unquantised
    adversarial_from: int = 5000  # step at which the judge joins
    batch: int = 16
    smallest_crop: float = 0.6  # share of a photo's area
    learning_rate: float = 5e-4
    warm_up: int = 200
    weight_decay: float = 0.01
    commitment: float = 0.25  # pull of the codes on the encoder, against that of the encoder on the codes
    perceptual_weight: float = 0.3  # against the errors of pixels
    adversarial_weight: float = 0.05
    revive_every: int = 50  # steps; a code that nothing chose in that time is moved
    average_decay: float = 0.999  # exponential moving average of the weights, which is what is kept
    report_every: int = 50
    seed: int = 0


class Usage(NamedTuple):
    """How evenly codes are used."""

    used: float  # share of the codes that were chosen at all
    perplexity: float  # as many evenly used codes carry the same information


def usage(counts: Tensor) -> Usage:
    """Usage by how often each code was chosen: int64 [codes]."""
    shares = counts[counts > 0].double() / counts.sum().clamp(min=1)
    return Usage(float((counts > 0).double().mean()), float(torch.exp(-(shares * shares.log()).sum())))


class Judge(nn.Module):
    """Tells photos from pictures made of units, patch by patch: pixels [B, 3, H, W] -> scores [B, 1, H / 8, W / 8]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
            nn.GroupNorm(8, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 3, 1, 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores: high for photos."""
        scores: Tensor = self.layers(2 * pixels - 1)
        return scores.float()


class Quantised(NamedTuple):
    """A batch on its way through the codebook."""

    units: Tensor  # int64 [B, N]
    directions: Tensor  # float32 [B, N, code_width]: those of the codes forwards, those of the encoder backwards
    loss: Tensor  # squared distances of both, with what each pulls


def quantise(model: VitVqgan, found: Tensor, commitment: float) -> Quantised:
    """Straight-through quantisation of what the encoder gives, float32 [B, N, code_width]."""
    units = model.nearest(found.detach())
    ours = F.normalize(found, dim=-1)
    codes = F.normalize(model.vectors(units), dim=-1)
    to_codes = (codes - ours.detach()).square().sum(-1).mean()
    to_encoder = (ours - codes.detach()).square().sum(-1).mean()
    return Quantised(units, ours + (codes - ours).detach(), to_codes + commitment * to_encoder)


def unquantised(found: Tensor) -> Quantised:
    """What the encoder gives, float32 [B, N, code_width], as it would be if there were a code for every direction."""
    return Quantised(torch.empty(0, dtype=torch.int64), F.normalize(found, dim=-1), found.new_zeros(()))


def perceptual_distance(backbone: ImageBackbone, made: Tensor, photos: Tensor) -> Tensor:
    """How differently a frozen network sees two batches of pixels in [0, 1]: mean over its stages of the squared
    distances between the directions of feature vectors.
    """
    with torch.no_grad():
        wanted = backbone.stages(_as_seen(backbone, photos))
    distances = [
        (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()
        for a, b in zip(backbone.stages(_as_seen(backbone, made)), wanted, strict=True)
    ]
    return torch.stack(distances).mean()


def _as_seen(backbone: ImageBackbone, pixels: Tensor) -> Tensor:
    """Normalised, in the layout in which depthwise convolutions are fastest on a CPU."""
    return backbone.normalised(pixels).contiguous(memory_format=torch.channels_last)


class TrainingRun:
    """Everything that one training run changes."""

    def __init__(self, config: VitVqganConfig, options: VitVqganTraining) -> None:
        torch.manual_seed(options.seed)
        self.options, self.step = options, 0
        self.model, self.judge = VitVqgan(config).train(), Judge().train()
        parameters = list(self.model.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.dim() > 1 and p is not self.model.codebook.weight]},
            # Codes count by direction alone; shrinking them would do nothing but spoil what a token ViT reads.
            {"params": [p for p in parameters if p.dim() <= 1] + [self.model.codebook.weight], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=options.weight_decay
        )
        self.judge_optimizer = torch.optim.AdamW(self.judge.parameters(), lr=options.learning_rate, betas=(0.5, 0.9))
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.recent = torch.zeros(config.codebook_size, dtype=torch.int64)  # choices since codes were last moved
        self.reported = torch.zeros(config.codebook_size, dtype=torch.int64)  # choices since the last report

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "judge": self.judge.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "judge_optimizer": self.judge_optimizer.state_dict(),
            "average": self.average,
            "recent": self.recent,
            "reported": self.reported,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name in ("model", "judge", "optimizer", "judge_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("step", "average", "recent", "reported"):
            setattr(self, name, state[name])

    def advance(self, photos: Tensor, backbone: ImageBackbone) -> dict[str, float]:
        """One step on pixels float32 [B, 3, H, W] in [0, 1]; returns its losses."""
        options = self.options
        rate = options.learning_rate * warm_up_cosine(self.step, options.steps, options.warm_up)
        for group in [*self.optimizer.param_groups, *self.judge_optimizer.param_groups]:
            group["lr"] = rate
        with products("cpu"):
            found = self.model.before_codes(photos)
        if self.step < options.codes_from:
            quantised = unquantised(found.float())
        else:
            if (self.step - options.codes_from) % options.revive_every == 0:
                self.revive(found.detach().float())
            quantised = quantise(self.model, found.float(), options.commitment)
        with products("cpu"):
            made = self.model.pixels_of(quantised.directions).float()
            seen = perceptual_distance(backbone, made, photos)
        pixels = (made - photos).abs().mean() + (made - photos).square().mean()
        loss = pixels + options.perceptual_weight * seen + quantised.loss
        losses = {"pixels": pixels, "perceptual": seen, "codes": quantised.loss}
        if self.step >= options.adversarial_from:
            losses["judge"] = self._teach_judge(made.detach(), photos)
            losses["adversarial"] = self._adversarial(made)
            loss = loss + options.adversarial_weight * losses["adversarial"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self._count(quantised.units)
        self.step += 1
        return {name: value.item() for name, value in losses.items()}

    def _count(self, units: Tensor) -> None:
        chosen = torch.bincount(units.flatten(), minlength=len(self.recent))
        self.recent, self.reported = self.recent + chosen, self.reported + chosen
        follow(self.average, self.model.state_dict(), self.options.average_decay, self.step)

    def _teach_judge(self, made: Tensor, photos: Tensor) -> Tensor:
        """One step of the judge by the hinge loss."""
        with products("cpu"):
            loss = F.relu(1 - self.judge(photos)).mean() + F.relu(1 + self.judge(made)).mean()
        self.judge_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.judge_optimizer.step()
        return loss.detach()

    def _adversarial(self, made: Tensor) -> Tensor:
        """What the judge, held still, thinks of the pictures."""
        self.judge.requires_grad_(False)
        with products("cpu"):
            loss = -self.judge(made).mean()
        self.judge.requires_grad_(True)
        return loss

    @torch.no_grad()
    def revive(self, found: Tensor) -> None:
        """Move the codes that nothing chose lately onto outputs of the encoder; at the start that is all of them."""
        dead = (self.recent == 0).nonzero()[:, 0]
        self.recent = torch.zeros_like(self.recent)
        outputs = found.flatten(0, 1)
        random = np.random.default_rng((self.options.seed, 2, self.step))
        drawn = outputs[random.choice(len(outputs), len(dead), replace=len(dead) > len(outputs))]
        self.model.codebook.weight[dead] = drawn
        self.average[CODEBOOK][dead] = drawn
        for moment in self.optimizer.state[self.model.codebook.weight].values():
            if moment.shape == self.model.codebook.weight.shape:
                moment[dead] = 0


def train_vit_vqgan(
    photos: list[Path], backbone: ImageBackbone, config: VitVqganConfig, options: VitVqganTraining, out: Path
) -> VitVqgan:
    """Train; resumes from `out/checkpoint.pt`; leaves the averaged weights in `out` and returns that model.

    The batch of a step depends on the seed and the step alone: a resumed run sees the pictures of an unbroken one.

    Args:
        backbone: frozen network of the perceptual term.

    Raises:
        ImageError: a photo cannot be read.
    """
    if (out / CONFIG).is_file():
        return VitVqgan.load(out)
    run = TrainingRun(config, options)
    checkpoint = Checkpoint(out / "checkpoint.pt", run.state)
    if state := checkpoint.load():
        run.restore(state)
    batches = PhotoCrops(photos, config.image_size, options.batch, options.smallest_crop, options.seed)
    report = TrainingLog(out / "log.jsonl")
    losses: list[dict[str, float]] = []
    while run.step < options.steps:
        losses.append(run.advance(batches.at(run.step), backbone))
        if run.step % options.report_every == 0 or run.step == options.steps:
            means = {name: float(np.mean([row[name] for row in losses if name in row])) for name in losses[-1]}
            report.write(step=run.step, **means, **_named(usage(run.reported)))
            run.reported, losses = torch.zeros_like(run.reported), []
        checkpoint.maybe_save()
    checkpoint.save()
    run.model.load_state_dict(run.average)
    run.model.eval().save(out)
    return run.model


def _named(found: Usage) -> dict[str, float]:
    return {"codes_used": found.used, "perplexity": found.perplexity}
