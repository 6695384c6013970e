"""Training of the published unit HiFi-GAN (reference formats, section 6): clips -> generator and duration predictor.

Both learn in the same steps, as they share the embeddings of the units. Convolutions of the generator have weight norm
while they learn; it is folded away at the end, so the result is what `im2sp-lab convert hifigan` makes of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from im2sp.errors import Im2SpError
from im2sp.train.data.clips import Clip
from im2sp.train.models.saving import CONFIG
from im2sp.train.models.unit_hifigan import UnitHifigan, UnitHifiganConfig
from im2sp.train.training.adversarial import AdversarialTraining, Lessons, Pupil, train_adversarially
from im2sp.train.training.hifigan_losses import CHANNELS, WaveformJudges, mel_loss
from im2sp.train.training.processes import Processes, peers_answer

SPEAKERS_WEIGHT = "spkr.weight"


@dataclass(frozen=True)
class HifiganTraining(AdversarialTraining):
    """Options of HiFi-GAN training. The defaults are the published ones."""

    steps: int = 500_000
    adversarial_from: int = 0
    batch: int = 16
    segment_frames: int = 28  # 8,960 samples
    learning_rate: float = 2e-4
    spectral_weight: float = 45.0
    average_decay: float = 0.0  # the last weights are kept
    bf16: bool = False
    decay: float = 0.999  # of the learning rate, an epoch: as many segments as there are clips
    judge_channels: int = CHANNELS  # of the widest layers of the discriminators, a multiple of 128
    start: str = ""  # folder of a vocoder that `convert hifigan` or this stage wrote, whose weights to begin with

    def rate(self, step: int, clips: int) -> float:
        """Learning rate of a step."""
        epoch = step // max(1, clips // self.batch)
        return float(self.learning_rate * self.decay**epoch)


def unit_runs(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit of every frame of a segment int64 [B, F] -> its units without repeats, and how long they last.

    Returns:
        (units int64 [B, U]; their frames float32 [B, U], 0 behind the end of a row with fewer units; bool [B, U], true
        for units that begin and end inside the segment: all but the first and the last).
    """
    first = torch.ones_like(frames[:, :1], dtype=torch.bool)
    place = torch.cat([first, frames[:, 1:] != frames[:, :-1]], 1).cumsum(1) - 1
    last = place[:, -1:]
    longest = int(last.max()) + 1
    nothing = frames.new_zeros(len(frames), longest)
    units = nothing.scatter(1, place, frames)
    durations = nothing.scatter_add(1, place, torch.ones_like(place)).float()
    number = torch.arange(longest, device=frames.device)
    return units, durations, (number > 0) & (number < last)


class HifiganPupil(Pupil):
    """A unit HiFi-GAN and the errors of its durations."""

    model: UnitHifigan

    def __init__(self, model: UnitHifigan) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, speakers: Tensor) -> tuple[Tensor, Tensor]:
        """Duration errors are squared errors of log(frames + 1)."""
        units, durations, inner = unit_runs(frames)
        predicted = self.model.log_durations(units, durations > 0).float()
        errors = (predicted - torch.log(durations + 1)).square()
        return self.model(frames, speakers).float(), (errors * inner).sum()


@peers_answer()
def train_hifigan(clips: Sequence[Clip], config: UnitHifiganConfig, options: HifiganTraining, out: Path) -> UnitHifigan:
    """Train; resumes; leaves the model in `out` (`UnitHifigan.save`); what is returned is on the CPU.

    Raises:
        Im2SpError: what it is to start from has other sizes.
    """
    processes = Processes()
    finished = (out / CONFIG).is_file()
    processes.same(finished, f"states of {out}")
    if finished:
        return UnitHifigan.load(out)
    torch.manual_seed(options.seed)
    model = UnitHifigan(config)
    if options.start:
        start_from(Path(options.start), model)
    with_weight_norm(model)
    lessons = Lessons(
        WaveformJudges(options.judge_channels), torch.sum, mel_loss, lambda step: options.rate(step, len(clips))
    )
    train_adversarially(HifiganPupil(model.train()), lessons, clips, options, out, processes)
    without_weight_norm(model)
    if processes.main:
        model.save(out)
    processes.wait()
    return model


def start_from(folder: Path, model: UnitHifigan) -> None:
    """Give a model the weights of another, but for the embeddings of its speakers, who are other people.

    Raises:
        Im2SpError: there is no such model in `folder`, or it has other sizes.
    """
    if not (folder / CONFIG).is_file():
        raise Im2SpError(f"{folder} holds no vocoder to start from: give what `im2sp-lab convert hifigan` wrote")
    other = UnitHifigan.load(folder)
    speakers = other.config.speakers and model.config.speakers  # either has one voice, or both have several
    if replace(other.config, speakers=speakers) != replace(model.config, speakers=speakers) or bool(
        other.config.speakers
    ) != bool(model.config.speakers):
        raise Im2SpError(
            f"the vocoder in {folder} has other sizes than [hifigan_sizes] ({other.config}, not {model.config}): make "
            "them the same; only the number of speakers may differ, where both have several"
        )
    state = {name: value for name, value in other.state_dict().items() if name != SPEAKERS_WEIGHT}
    model.load_state_dict(model.state_dict() | state)


def _normed(model: UnitHifigan) -> list[nn.Module]:
    """The convolutions of the generator, which have weight norm while they learn; those of the durations do not."""
    parts = nn.ModuleList([model.conv_pre, model.ups, model.resblocks, model.conv_post])
    return [module for module in parts.modules() if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)]


def with_weight_norm(model: UnitHifigan) -> None:
    """Part the weights of the generator's convolutions into sizes and directions, one size for each row."""
    for module in _normed(model):
        parametrizations.weight_norm(module)


def without_weight_norm(model: UnitHifigan) -> None:
    """Put them together again."""
    for module in _normed(model):
        parametrize.remove_parametrizations(module, "weight")
