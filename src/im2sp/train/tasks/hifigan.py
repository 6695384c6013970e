"""Training of the published unit HiFi-GAN: clips -> `UnitHifigan`, the generator and its duration predictor.

Both learn in the same steps, as they share the embeddings of the units. Convolutions of the generator have weight norm
in training; it is folded into the weights at the end, as `im2sp convert hifigan` does with a published checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from im2sp.errors import Im2SpError
from im2sp.train.data.clips import Clips
from im2sp.train.losses import discriminator_loss, generator_losses, mel_loss
from im2sp.train.models.discriminators import CHANNELS, Discriminators
from im2sp.train.models.saving import CONFIG
from im2sp.train.models.unit_hifigan import UnitHifigan
from im2sp.train.tasks.segments import BETAS, Segments, SegmentTraining, draw_segments
from im2sp.train.trainer import Losses, MicroBatch, Task, Update, adamw

MATCHING_WEIGHT = 2.0  # of feature matching, against adversarial 1
SPEAKERS = "spkr.weight"  # embeddings of speakers


@dataclass(frozen=True)
class HifiganTraining(SegmentTraining):
    """Options of the HiFi-GAN; the defaults are the published ones."""

    steps: int = 500_000
    learning_rate: float = 2e-4
    ema_decay: float = 0.0  # the last weights are kept
    bf16: bool = False
    lr_decay: float = 0.999  # of the learning rate, an epoch: as many segments as there are clips
    spectral_weight: float = 45.0  # against adversarial 1 and feature matching 2
    discriminator_channels: int = CHANNELS  # of the widest layers, a multiple of 128
    init_from: str = ""  # folder of a vocoder that `im2sp convert hifigan` or this task wrote, to start from


def split_units(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Remove the repeats of a batch of segments: unit of every frame int64 [B, F] -> units with durations.

    Returns:
        units int64 [B, U]; their frames float32 [B, U], 0 in the padding of shorter rows; bool [B, U], true for units
        whose duration is known: all but the first and the last of a segment.
    """
    first = torch.ones_like(frames[:, :1], dtype=torch.bool)
    place = torch.cat([first, frames[:, 1:] != frames[:, :-1]], 1).cumsum(1) - 1
    last = place[:, -1:]
    longest = int(last.max()) + 1
    zeros = frames.new_zeros(len(frames), longest)
    units = zeros.scatter(1, place, frames)
    durations = zeros.scatter_add(1, place, torch.ones_like(place)).float()
    number = torch.arange(longest, device=frames.device)
    return units, durations, (number > 0) & (number < last)


class HifiganTask(Task):
    """Unit HiFi-GAN with an embedding for each speaker; `fold_weight_norm` makes the model that is kept."""

    config: HifiganTraining
    model: UnitHifigan

    def __init__(self, config: HifiganTraining, vocoder: UnitHifigan, clips: Clips) -> None:
        if config.init_from:
            load_partial(Path(config.init_from), vocoder)
        for module in _normed(vocoder):
            parametrizations.weight_norm(module)
        self.clips, self.discriminators = clips, Discriminators(config.discriminator_channels)
        super().__init__(config, vocoder, discriminators=self.discriminators)
        self.optimizers = {
            name: adamw([module], config, BETAS, decays=lambda name, parameter: True)
            for name, module in self.modules.items()
        }

    def learning_rate_factor(self, step: int) -> float:
        """Exponential decay by epochs."""
        return float(self.config.lr_decay ** (step // max(1, len(self.clips) // self.config.batch)))

    def updates(self, step: int) -> list[Update]:
        """The discriminators, then the generator; no gradients are clipped."""
        self.discriminators.update_norms()
        return [Update("discriminators", self.discriminate), Update("model", self.loss)]

    def discriminate(self, step: int, part: MicroBatch) -> Tensor:
        """Loss of the discriminators."""
        segments = self._segments(step, part)
        with self.autocast():
            with torch.no_grad():
                generated, _ = self.generate(segments)
            real, fake = self.discriminators(segments.waveforms), self.discriminators(generated)
            return discriminator_loss(real, fake) * part.share(self.config.batch)

    def loss(self, step: int, part: MicroBatch) -> Losses:
        """Loss of the generator, by discriminators whose weights get no gradients."""
        segments, share = self._segments(step, part), part.share(self.config.batch)
        with self.autocast():
            generated, duration_errors = self.generate(segments)
        spectral = mel_loss(generated, segments.waveforms)
        self.discriminators.requires_grad_(False)
        with self.autocast():
            with torch.no_grad():
                real = self.discriminators(segments.waveforms)
            adversarial, matching = generator_losses(real, self.discriminators(generated))
        self.discriminators.requires_grad_(True)
        durations = duration_errors / max(1, segments.known_durations)
        total = adversarial + MATCHING_WEIGHT * matching + self.config.spectral_weight * spectral
        return {"loss": total * share + durations, "spectral": spectral * share, "durations": durations}

    def _segments(self, step: int, part: MicroBatch) -> Segments:
        return draw_segments(self.clips, self.config, step, part, self.device)

    def generate(self, segments: Segments) -> tuple[Tensor, Tensor]:
        """Waveforms, and squared errors of log(frames + 1) over the units whose durations are known."""
        units, durations, known = split_units(segments.frames)
        predicted = self.model.log_durations(units, durations > 0).float()
        errors = (predicted - torch.log(durations + 1)).square()
        return self.model(segments.frames, segments.speakers).float(), (errors * known).sum()

    def fold_weight_norm(self) -> UnitHifigan:
        """Replace each pair of norm and direction by the weight; training ends with it."""
        for module in _normed(self.model):
            parametrize.remove_parametrizations(module, "weight")
        return self.model


def _normed(model: UnitHifigan) -> list[nn.Module]:
    """Convolutions of the generator."""
    parts = nn.ModuleList([model.conv_pre, model.ups, model.resblocks, model.conv_post])
    return [module for module in parts.modules() if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)]


def load_partial(folder: Path, model: UnitHifigan) -> None:
    """Load the weights of another vocoder, except the embeddings of its speakers.

    Raises Im2SpError when there is no such model in `folder`, or it has other sizes.
    """
    if not (folder / CONFIG).is_file():
        raise Im2SpError(f"{folder} holds no vocoder to start from: give what `im2sp convert hifigan` wrote")
    state = {name: value for name, value in UnitHifigan.load(folder).state_dict().items() if name != SPEAKERS}
    try:
        model.load_state_dict(model.state_dict() | state)
    except RuntimeError as error:
        raise Im2SpError(
            f"the vocoder in {folder} has other sizes than [hifigan]: make them the same; only the number of speakers "
            "may differ, where both have several"
        ) from error
