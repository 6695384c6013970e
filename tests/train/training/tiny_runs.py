"""Tiny training runs, for the test's own process or, started as a program, for one of several processes:

python -m tests.train.training.tiny_runs FOLDER ACCUMULATE RUN...

With KILL_AT in the environment, checkpoints are saved after every third step, and process 1 kills itself after the step
of that number, so that what was learnt since is lost.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from im2sp.errors import Im2SpError
from im2sp.train.data.clips import Clip
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.data.unit_table import UnitRow, write_unit_table
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.stages.translate import freeze, train_and_keep
from im2sp.train.stages.units import learn_subwords
from im2sp.train.training.processes import Processes
from im2sp.train.training.progress import Checkpoint
from im2sp.train.training.translator import Sentences, TranslatorTraining, train_translator

CONFIG = GitDecoderConfig(vocabulary_size=20, image_width=8, width=16, layers=2, heads=2, feed_forward=16)
PLAIN = replace(CONFIG, dropout=0.0, image_dropout=0.0)
OPTIONS = TranslatorTraining(steps=9, photos=4, captions=2, warm_up=2, report_every=1, average_decay=0.9)
UNITS = 12
FROZEN = ("image_projection",)
PHOTOS = "abcdefghijk"  # more than two steps of 4 and less than three: an epoch has two steps
SAVED_EVERY = 3  # steps, where a process is to die: every other checkpoint is in the middle of an epoch


def photo_features(folder: Path) -> ImageFeatures:
    if not (folder / "index.json").is_file():
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for view in ("whole", "flip"):
            np.save(folder / f"{view}.npy", rng.normal(size=(len(PHOTOS), 4, 8)).astype(np.float16))
        (folder / "index.json").write_text(json.dumps({"image_ids": list(PHOTOS), "views": ["whole", "flip"]}))
    return ImageFeatures(folder)


def sentences() -> Sentences:
    """Captions of different length and number, so that parts of a batch have different numbers of tokens."""
    rng = np.random.default_rng(1)
    return {
        name: [[1, *rng.integers(3, 20, size=rng.integers(2, 9)).tolist(), 2] for _ in range(rng.integers(1, 4))]
        for name in PHOTOS
    }


def translator(folder: Path, accumulate: int, config: GitDecoderConfig = CONFIG, **more: Any) -> nn.Module:
    torch.manual_seed(5)
    features, spoken = photo_features(folder.parent / "features"), sentences()
    options, model = replace(OPTIONS, accumulate=accumulate, **more), GitDecoder(config)
    freeze(model, options.frozen)
    return train_translator(model, features, spoken, spoken, options, folder)


def undivided(folder: Path, accumulate: int) -> nn.Module:
    """The translator without dropout and in float32: how the batch is divided changes the rounding only."""
    return translator(folder, accumulate, PLAIN, bf16=False, frozen=FROZEN)


def from_tables(folder: Path, accumulate: int) -> nn.Module:
    """A translator from unit tables, as the stage `translate` trains it."""
    units, features = folder.parent / "units", photo_features(folder.parent / "features")
    subwords = UnitSubwords.load(folder.parent / "subwords.json", UNITS)
    torch.manual_seed(5)
    model = GitDecoder(replace(CONFIG, vocabulary_size=subwords.vocabulary_size))
    return train_and_keep(model, features, units, subwords, replace(OPTIONS, accumulate=accumulate), folder)


def write_tables(folder: Path) -> None:
    """Unit tables and subwords for `from_tables`."""
    random = np.random.default_rng(2)
    for number, split in enumerate(("train", "train", "dev")):
        rows = [
            UnitRow(name, f"{name}{n}", random.integers(UNITS, size=n + 3).astype(np.uint16), split, "", 0.1, "")
            for n, name in enumerate(PHOTOS)
        ]
        write_unit_table(folder / "units" / f"{split}-{number:04d}.parquet", rows, {"units": UNITS})
    learn_subwords(folder / "units", folder / "subwords.json", UNITS, UNITS + 5)


def sharded(folder: Path, accumulate: int) -> nn.Module:
    """The translator, of which each process keeps a shard."""
    return translator(folder, accumulate, sharded=True)


def sharded_undivided(folder: Path, accumulate: int) -> nn.Module:
    """What `undivided` trains, in shards and with activation checkpoints."""
    return translator(folder, accumulate, PLAIN, bf16=False, frozen=FROZEN, sharded=True, activation_checkpoints=True)


def spoken() -> list[Clip]:
    """Clips of two speakers."""
    rng = np.random.default_rng(0)
    return [
        Clip(np.repeat(rng.integers(9, size=20), 2), rng.integers(-9000, 9000, size=40 * 320).astype(np.int16), n % 2)
        for n in range(4)
    ]


def vocoder(folder: Path, accumulate: int) -> nn.Module:
    from im2sp.train.models.unit_vocoder import VocoderConfig
    from im2sp.train.training.vocoder import VocoderTraining, train_vocoder

    config = VocoderConfig(
        units=9, width=16, feed_forward=16, slow_blocks=1, fast_blocks=1, duration_width=8, duration_blocks=1
    )
    options = VocoderTraining(
        steps=6,
        adversarial_from=2,
        batch=3,
        segment_frames=16,
        duration_steps=2,
        duration_batch=2,
        warm_up=2,
        report_every=1,
        accumulate=accumulate,
    )
    return nn.ModuleList(train_vocoder(spoken(), config, options, folder))


def hifigan(folder: Path, accumulate: int) -> nn.Module:
    """The published vocoder, with dropout in its durations and spectral norm in one of its discriminators."""
    from im2sp.train.models.unit_hifigan import UnitHifiganConfig
    from im2sp.train.training.hifigan import HifiganTraining, train_hifigan

    config = UnitHifiganConfig(
        units=9, speakers=2, width=8, channels=32, block_kernels=(3,), block_dilations=((1, 3),), duration_width=8
    )
    options = HifiganTraining(
        steps=6, batch=3, segment_frames=6, judge_channels=128, report_every=1, accumulate=accumulate
    )
    return train_hifigan(spoken(), config, options, folder)


def hubert(folder: Path, accumulate: int) -> nn.Module:
    from im2sp.train.models.speech_encoder import small_hubert_config
    from im2sp.train.training.hubert import HubertTraining, train_hubert

    rng = np.random.default_rng(0)
    clips = [rng.integers(-9000, 9000, size=n * 320).astype(np.int16) for n in (20, 21, 25, 30, 24)]
    targets = [rng.integers(0, 7, size=len(clip) // 320).astype(np.int16) for clip in clips]
    options = HubertTraining(steps=25, batch_seconds=1.5, warm_up=2, accumulate=accumulate)
    return train_hubert(clips, targets, small_hubert_config(1, 32), options, folder, 7)


def write_speech(folder: Path) -> None:
    """Spoken captions for `speech_encoder`."""
    from im2sp.train.data.speech_shards import SpokenCaption, write_shard

    rng = np.random.default_rng(0)
    for split in ("train", "dev"):
        clips = [rng.integers(-9000, 9000, size=n * 320).astype(np.int16) for n in (20, 21, 25, 30, 24)]
        nothing = np.zeros(0, np.int32)
        write_shard(
            folder / f"{split}-0000.parquet",
            [SpokenCaption(f"{n}_0", str(n), split, "noise", "", clip, [], nothing) for n, clip in enumerate(clips)],
        )


def speech_encoder(folder: Path, accumulate: int) -> nn.Module:
    """The whole stage `hubert`, with what the first process prepares for the others."""
    from im2sp.train.stages.hubert import HubertStage, train_speech_encoder

    options = HubertStage(
        layers=2,
        width=32,
        first_clusters=5,
        target_clusters=6,
        clusters=7,
        iterations=(2, 2),
        batch_seconds=1.5,
        kmeans_minutes=1,
        accumulate=accumulate,
    )
    return train_speech_encoder(folder.parent / "speech", folder, options)


RUNS: dict[str, Callable[[Path, int], nn.Module]] = {
    "translator": translator,
    "undivided": undivided,
    "from_tables": from_tables,
    "sharded": sharded,
    "sharded_undivided": sharded_undivided,
    "vocoder": vocoder,
    "hifigan": hifigan,
    "hubert": hubert,
    "speech_encoder": speech_encoder,
}


def weights(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """What a finished run left in its folder."""
    return RUNS[name](folder / name, 1).state_dict()


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def _die_after(step: int) -> None:
    def save_and_maybe_die(self: Checkpoint) -> None:
        done = self._state()["step"]
        if done % SAVED_EVERY == 0:
            self.save()
        if done == step and not self._writes:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoint.maybe_save = save_and_maybe_die  # type: ignore[method-assign]


def main() -> None:
    folder, accumulate, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(1)
    if "KILL_AT" in os.environ:
        _die_after(int(os.environ["KILL_AT"]))
    try:
        processes = Processes(float(os.environ.get("PATIENCE", "5")))
        for name in names:
            RUNS[name](folder / name, accumulate)
        processes.leave()
    except Im2SpError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
