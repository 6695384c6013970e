"""Training of the published unit HiFi-GAN: its losses computed once more here, its steps, and what comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from im2sp.errors import Im2SpError
from im2sp.train.convert.hifigan import convert_hifigan
from im2sp.train.data.clips import Clip
from im2sp.train.models.unit_hifigan import UnitHifigan, UnitHifiganConfig
from im2sp.train.recipe import Recipe
from im2sp.train.training import adversarial, hifigan
from im2sp.train.training.hifigan import HifiganPupil, HifiganTraining, train_hifigan, unit_runs
from im2sp.train.training.hifigan_losses import WaveformJudges, log_mel, mel_loss
from im2sp.train.training.processes import Part
from im2sp.train.training.progress import Checkpoint
from im2sp.train.training.vocoder_losses import discriminator_loss, generator_loss
from tests.train.convert.published_hifigan import CONFIG as PUBLISHED
from tests.train.convert.published_hifigan import published_state, write_published

PAPER = Path(__file__).parents[3] / "recipes" / "paper"
CONFIG = UnitHifiganConfig(
    units=9, width=8, channels=32, block_kernels=(3,), block_dilations=((1, 3),), duration_width=8
)
OPTIONS = HifiganTraining(steps=3, batch=2, segment_frames=5, judge_channels=128, report_every=1)


def clips(speakers: int = 1) -> list[Clip]:
    """Every unit is a tone of its own, so that there is something to learn."""
    rng, found = np.random.default_rng(0), []
    for number in range(4):
        units = np.repeat(rng.integers(9, size=12), rng.integers(1, 5, size=12))
        tones = np.repeat(200 + 150 * units, 320).cumsum() * (2 * np.pi / 16_000)
        found.append(Clip(units.astype(np.uint16), (9000 * np.sin(tones)).astype(np.int16), number % speakers))
    return found


def waves(seed: int, samples: int = 2560) -> Tensor:
    return 0.3 * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


def test_the_published_values_are_the_defaults() -> None:
    options, config = HifiganTraining(), UnitHifiganConfig()
    assert options.segment_frames * config.hop == 8960
    assert (options.batch, options.learning_rate, options.decay) == (16, 2e-4, 0.999)
    assert (options.adversarial_from, options.spectral_weight, adversarial.MATCHING_WEIGHT) == (0, 45, 2)
    assert (options.average_decay, options.bf16, options.start) == (0, False, "")
    assert adversarial.BETAS == (0.8, 0.99)
    assert (config.units, config.hop, config.duration_dropout) == (200, 320, 0.5)
    judges = WaveformJudges()
    weights = [
        sum(each.numel() for name, each in member.named_parameters() if not name.endswith("original0"))
        for member in judges.members
    ]
    assert weights == [8_218_433] * 5 + [9_870_209] * 3  # counted from the layers of HiFi-GAN's own discriminators
    kinds = [type(member.last.parametrizations["weight"][0]).__name__ for member in judges.members]
    assert kinds == ["_WeightNorm"] * 5 + ["_SpectralNorm"] + ["_WeightNorm"] * 2


@pytest.mark.parametrize("data", ["coco-raw", "coco-units", "flickr8k-raw", "flickr8k-units"])
def test_the_paper_recipes_have_the_published_values(data: str) -> None:
    recipe = Recipe.read(PAPER / f"{data}.toml")
    assert recipe.section("hifigan", HifiganTraining) == HifiganTraining()
    assert recipe.section("hifigan_sizes", UnitHifiganConfig) == UnitHifiganConfig()
    assert recipe.sections["hifigan"].items() >= {"steps": 500_000, "batch": 16, "segment_frames": 28}.items()


def test_the_learning_rate_falls_by_a_thousandth_an_epoch() -> None:
    options = HifiganTraining(batch=16)
    assert options.rate(0, 160) == options.rate(9, 160) == 2e-4
    assert options.rate(10, 160) == pytest.approx(2e-4 * 0.999)
    assert options.rate(25, 160) == pytest.approx(2e-4 * 0.999**2)
    assert options.rate(3, 5) == pytest.approx(2e-4 * 0.999**3)  # fewer clips than a batch


def slaney_filters() -> np.ndarray:
    """80 triangles from 0 to 8 kHz, evenly spaced on Slaney's scale and of equal area: float64 [513, 80]."""

    def hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, 200 / 3 * mel, 1000 * 6.4 ** ((mel - 15) / 27))

    top = 15 + 27 * np.log(8) / np.log(6.4)  # of 8 kHz
    corners, bins = hertz(np.linspace(0, top, 82)), np.arange(513) * 16_000 / 1024
    filters = np.zeros((513, 80))
    for band, (low, middle, high) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
        filters[:, band] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return filters


def test_mel_loss_is_the_formula() -> None:
    """Magnitudes of Hann-windowed pieces of 1,024 samples, every 256, of the waveform mirrored at its ends."""
    real, fake = waves(0), waves(1)
    expected = []
    for wave in (real, fake):
        padded = np.pad(wave.numpy().astype(np.float64), ((0, 0), (384, 384)), mode="reflect")
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
        pieces = np.stack([padded[:, at : at + 1024] * window for at in range(0, padded.shape[1] - 1023, 256)], 1)
        magnitudes = np.sqrt(np.abs(np.fft.rfft(pieces)) ** 2 + 1e-9)
        expected.append(np.log(np.maximum(magnitudes @ slaney_filters(), 1e-5)))
    assert log_mel(real).shape == (2, 10, 80)
    assert np.abs(log_mel(real).numpy() - expected[0]).max() < 1e-4
    assert mel_loss(fake, real).item() == pytest.approx(np.abs(expected[0] - expected[1]).mean(), abs=1e-5)


def test_judges_are_convolutions_of_every_nth_sample_and_of_coarser_waveforms() -> None:
    torch.manual_seed(0)
    judges, wave = WaveformJudges(128), waves(0, 2501)
    with torch.inference_mode():
        found = judges(wave)
        period = plain_opinion(judges.members[3], F.pad(wave, (0, 5), mode="reflect"), 7, [3, 3, 3, 3, 1])
        coarse = F.pad(F.pad(wave, (2, 2)).unfold(1, 4, 2).mean(-1), (2, 2)).unfold(1, 4, 2).mean(-1)
        scales = [plain_opinion(judges.members[at], x, 1, [1, 2, 2, 4, 4, 1, 1]) for at, x in ((5, wave), (7, coarse))]
    for at, expected in ((3, period), (5, scales[0]), (7, scales[1])):
        verdicts, maps = found[at]
        assert len(maps) == len(expected)
        assert maps[-1] is verdicts
        for ours, theirs in zip(maps, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def plain_opinion(judge: nn.Module, wave: Tensor, period: int, strides: list[int]) -> list[Tensor]:
    """Hidden maps of every period-th sample by themselves, by one-dimensional convolutions."""
    parts = []
    for start in range(period):
        x, maps = wave[:, None, start::period], []
        for layer, stride in zip([*judge.layers, judge.last], [*strides, 1], strict=True):
            weight = layer.weight[:, :, 0]
            x = F.conv1d(x, weight, layer.bias, stride, weight.shape[2] // 2, groups=x.shape[1] // weight.shape[1])
            x = F.leaky_relu(x, 0.1) if layer is not judge.last else x
            maps.append(x)
        parts.append(maps)
    return [torch.stack(each, 2) for each in zip(*parts, strict=True)]


def test_least_squares_and_feature_matching_are_sums_over_judges_and_maps() -> None:
    torch.manual_seed(0)
    judges = WaveformJudges(128)
    with torch.inference_mode():
        real, fake = judges(waves(0)), judges(waves(1))
    teaching = learning = matching = 0.0
    for (said_of_real, maps_of_real), (said_of_fake, maps_of_fake) in zip(real, fake, strict=True):
        r, f = said_of_real.double().numpy(), said_of_fake.double().numpy()
        teaching += ((r - 1) ** 2).mean() + (f**2).mean()
        learning += ((f - 1) ** 2).mean()
        matching += sum(np.abs((a - b).numpy()).mean() for a, b in zip(maps_of_real, maps_of_fake, strict=True))
    assert discriminator_loss(real, fake, torch.sum).item() == pytest.approx(teaching, rel=1e-5)
    found = [loss.item() for loss in generator_loss(real, fake, torch.sum)]
    assert found == pytest.approx([learning, matching], rel=1e-5)


FRAMES = torch.tensor(
    [[4, 4, 7, 7, 7, 1, 4, 4], [2, 2, 2, 2, 2, 2, 2, 2], [0, 1, 0, 1, 5, 5, 5, 3], [6, 6, 8, 8, 8, 8, 8, 8]]
)


def test_durations_are_compared_by_their_logarithms_without_the_first_and_the_last() -> None:
    torch.manual_seed(0)
    model = UnitHifigan(CONFIG).eval()
    expected = 0.0
    for row in FRAMES.tolist():
        runs = [(unit, len(list(group))) for unit, group in groupby(row)]
        with torch.inference_mode():
            predicted = model.log_durations(torch.tensor([[unit for unit, _ in runs]]))[0]
        for place in range(1, len(runs) - 1):
            expected += (predicted[place].item() - np.log(runs[place][1] + 1)) ** 2
    with torch.inference_mode():
        _, errors = HifiganPupil(model)(FRAMES, torch.zeros(4, dtype=torch.int64))
    assert errors.item() == pytest.approx(expected, rel=1e-5)
    units, durations, inner = unit_runs(FRAMES)
    assert units[0, :4].tolist() == [4, 7, 1, 4]
    assert durations[0].tolist() == [2, 3, 1, 2, 0, 0]
    assert durations[2].tolist() == [1, 1, 1, 1, 3, 1]
    assert inner.sum(1).tolist() == [2, 0, 4, 0]


def test_durations_can_be_learned() -> None:
    torch.manual_seed(0)
    pupil, nobody = HifiganPupil(UnitHifigan(CONFIG).eval()), torch.zeros(4, dtype=torch.int64)
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=1e-2)
    errors = []
    for _ in range(30):
        _, error = pupil(FRAMES, nobody)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.1 * errors[0]


def test_inner_units_of_a_step_are_counted_in_all_its_parts() -> None:
    options = replace(OPTIONS, batch=5)
    cut = adversarial.segments(clips(3), options, 2)
    assert cut.inner == int(unit_runs(cut.frames)[2].sum()) > 0
    pieces = [adversarial.segments(clips(3), options, 2, Part(number, 2)) for number in (0, 1)]
    assert {piece.inner for piece in pieces} == {cut.inner}
    for name in ("frames", "waveforms", "speakers"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(cut, name))


def losses(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_few_steps_come_nearer_to_the_recordings(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=10, learning_rate=3e-3)
    model = train_hifigan(clips(), CONFIG, options, tmp_path)
    mel = losses(tmp_path, "spectral")
    assert len(mel) == 10
    assert np.mean(mel[-3:]) < 0.7 * np.mean(mel[:3])
    assert train_hifigan(clips(), CONFIG, options, tmp_path).state_dict().keys() == model.state_dict().keys()


def test_a_run_that_was_cut_off_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, speakers=2)

    def save_and_stop(self: Checkpoint) -> None:
        self.save()
        if self._state()["step"] == 2:
            raise KeyboardInterrupt

    unbroken = train_hifigan(clips(2), config, OPTIONS, tmp_path / "unbroken").state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "maybe_save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train_hifigan(clips(2), config, OPTIONS, tmp_path / "broken")
    for name, value in train_hifigan(clips(2), config, OPTIONS, tmp_path / "broken").state_dict().items():
        assert torch.equal(value, unbroken[name]), name


def test_a_batch_in_parts_is_the_batch(tmp_path: Path) -> None:
    config = replace(CONFIG, speakers=2, duration_dropout=0.0)  # dropout is drawn for each part
    options = replace(OPTIONS, steps=2, batch=3)
    for parts in (1, 3):
        train_hifigan(clips(2), config, replace(options, accumulate=parts), tmp_path / str(parts))
    for name in ("loss", "spectral", "durations"):
        assert losses(tmp_path / "1", name) == pytest.approx(losses(tmp_path / "3", name), rel=1e-4)


@pytest.mark.parametrize("speakers", [0, 2])
def test_what_it_trains_is_what_the_published_layout_becomes(speakers: int, tmp_path: Path) -> None:
    """Its weights while it learns, under the names of a published checkpoint, through `convert hifigan`."""
    config = PUBLISHED | ({"multispkr": "_", "model_in_dim": 16} if speakers else {})
    sizes = UnitHifiganConfig(
        units=PUBLISHED["num_embeddings"], speakers=speakers, width=8, channels=64, duration_width=12
    )
    torch.manual_seed(0)
    model = UnitHifigan(sizes)
    hifigan.with_weight_norm(model)
    learning = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value.clone()
        for name, value in model.state_dict().items()
    }
    assert {name for name in learning if "spkr" not in name} == set(published_state(PUBLISHED))
    hifigan.without_weight_norm(model)
    model.save(tmp_path / "trained")
    converted = convert_hifigan(*write_published(tmp_path / "published", config, learning))
    trained = UnitHifigan.load(tmp_path / "trained")
    assert converted.config == trained.config
    for name, value in converted.state_dict().items():
        torch.testing.assert_close(value, trained.state_dict()[name], atol=1e-6, rtol=0)


def test_training_may_start_from_a_converted_vocoder(tmp_path: Path) -> None:
    torch.manual_seed(1)
    started = UnitHifigan(replace(CONFIG, speakers=5))
    started.save(tmp_path / "converted")
    options = replace(OPTIONS, steps=0, start=str(tmp_path / "converted"))
    found = train_hifigan(clips(2), replace(CONFIG, speakers=2), options, tmp_path / "out").state_dict()
    for name, value in started.state_dict().items():
        if name == "spkr.weight":
            assert found[name].shape == (2, 8)
        else:
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)
    for other in (CONFIG, replace(CONFIG, speakers=2, channels=64)):
        with pytest.raises(Im2SpError, match="has other sizes than"):
            train_hifigan(clips(2), other, options, tmp_path / "no")
    with pytest.raises(Im2SpError, match="holds no vocoder to start from"):
        train_hifigan(clips(2), CONFIG, replace(options, start=str(tmp_path)), tmp_path / "no")
