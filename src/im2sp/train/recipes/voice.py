"""Recipe of a voice: recordings -> speech encoder, speech units, vocoder and durations.

The folder of runs is the voice that a captioner recipe names: `speech_encoder/` and `vocoder/` hold its checkpoints.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file
from transformers import HubertModel

from im2sp.errors import Im2SpError
from im2sp.files import atomic_write, write_json
from im2sp.speech.audio import HOP, SAMPLE_RATE
from im2sp.train.convert.unit_files import UnitFiles
from im2sp.train.data.clips import CLIPS, StoredClips, store_clips
from im2sp.train.data.recordings import RecordingOptions, import_corpus, import_recordings
from im2sp.train.data.speech_shards import as_floats, read_shards
from im2sp.train.data.synthesis import SynthesisConfig
from im2sp.train.data.unit_table import iterate_unit_tables
from im2sp.train.distributed import Distributed
from im2sp.train.launch import is_main_process
from im2sp.train.models.saving import CONFIG, WEIGHTS
from im2sp.train.models.speech_encoder import CLUSTERS, Clusters, SpeechEncoder, edge_padding, small_hubert_config
from im2sp.train.models.speech_encoder import CONFIG as ENCODER_CONFIG
from im2sp.train.models.unit_hifigan import UnitHifigan, UnitHifiganConfig
from im2sp.train.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig, save_vocoder
from im2sp.train.speech_units import (
    Features,
    fit_clusters,
    layer_features,
    mfcc_features,
    probe_quality,
    quantize,
    sample_features,
    training_clips,
)
from im2sp.train.stages import BaseRecipe, Stage
from im2sp.train.tasks.hifigan import HifiganTask, HifiganTraining
from im2sp.train.tasks.hubert import HubertTraining, MaskedPrediction
from im2sp.train.tasks.vocoder import DurationTask, DurationTraining, VocoderTask, VocoderTraining
from im2sp.train.trainer import train

log = logging.getLogger(__name__)

RECORDINGS, ENCODER, UNITS, DURATIONS, VOCODER = "recordings", "speech_encoder", "units", "durations", "vocoder"
SPEAKERS = "speakers.json"  # names of the speakers of a HiFi-GAN, in the order of their embeddings


@dataclass(frozen=True)
class EncoderOptions:
    """Section [speech_encoder]: a small HuBERT of our own and k-means on its best layer, or a published one.

    Later iterations start from the weights of the one before, where the authors of HuBERT start anew: in an hour on two
    cores, the head start is worth more than the independence.
    """

    source: Literal["train", "published"] = "train"
    folder: str = ""  # of a published one, as `im2sp convert hubert` wrote it
    hours: float = 10.0  # speech to learn from
    layers: int = 6
    width: int = 256
    first_clusters: int = 100  # of MFCCs, the targets of the first iteration
    target_clusters: int = 200  # of features, the targets of later iterations
    clusters: int = 200  # of features: the speech units
    hubert_variance: float = 0.5  # of HuBERT features, against that of the MFCCs they are clustered with
    iterations: tuple[int, ...] = (900, 1500)  # training steps of each iteration
    smoothing: int = 5  # frames averaged before clustering (see SpeechEncoder); 1 for none
    kmeans_minutes: float = 15.0  # speech that k-means sees
    probe_clips: int = 200  # dev clips on which layers are compared
    seed: int = 0


@dataclass(frozen=True)
class UnitOptions:
    """Section [units]: made by the speech encoder, or published `.unit` files of the recordings."""

    source: Literal["speech-encoder", "unit-files"] = "speech-encoder"
    folder: str = ""  # of the .unit or .km files
    count: int = 200  # units in these files


@dataclass(frozen=True)
class VocoderOptions:
    """Section [vocoder]: which kind."""

    kind: Literal["own", "hifigan", "published"] = "own"  # own: a small Vocos; hifigan: the published unit HiFi-GAN
    folder: str = ""  # of a published one, as `im2sp convert hifigan` wrote it


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Options of a voice."""

    recordings: RecordingOptions = field(default_factory=lambda: RecordingOptions("folder"))
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)  # for recordings by Piper
    speech_encoder: EncoderOptions = field(default_factory=EncoderOptions)
    hubert: HubertTraining = field(default_factory=HubertTraining)  # its `steps` are those of `iterations`
    units: UnitOptions = field(default_factory=UnitOptions)
    vocoder: VocoderOptions = field(default_factory=VocoderOptions)
    own_vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    own_vocoder_training: VocoderTraining = field(default_factory=VocoderTraining)
    durations: DurationTraining = field(default_factory=DurationTraining)
    hifigan: UnitHifiganConfig = field(default_factory=UnitHifiganConfig)
    hifigan_training: HifiganTraining = field(default_factory=HifiganTraining)


def make_recordings(recipe: Recipe, out: Path) -> None:
    """Import recordings, or let Piper speak captions."""
    import_recordings(recipe.data, recipe.recordings, recipe.synthesis, out)


def make_encoder(recipe: Recipe, out: Path) -> None:
    """Train HuBERT and fit k-means in `iterations`, or copy a published speech encoder."""
    options = recipe.speech_encoder
    if options.source == "published":
        copy_published(options.folder, ENCODER_CONFIG, "im2sp convert hubert", out)
        return
    encoder = HubertIterations(recipe, out).run()
    if is_main_process():
        encoder.save(out)


class HubertIterations:
    """Iterations of HuBERT: the units of each are the targets of the next."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.options, self.training, self.out = recipe.speech_encoder, recipe.hubert, out
        self.clips = training_clips(recipe.runs / RECORDINGS, self.options.hours)
        self.probe = list(read_shards(recipe.runs / RECORDINGS, "dev", self.options.probe_clips))
        if not self.clips or not self.probe:
            raise Im2SpError(f"{recipe.runs / RECORDINGS} must hold recordings of both splits, train and dev")
        self.processes = Distributed()

    def run(self) -> SpeechEncoder:
        """Train all iterations that are not finished; return the speech encoder."""
        options = self.options
        clusters = self._clusters("mfcc", mfcc_features, options.first_clusters)
        features: Features = mfcc_features
        hubert = HubertModel(small_hubert_config(options.layers, options.width))
        layer = 0
        for number, steps in enumerate(options.iterations, 1):
            hubert = self._train(number, steps, hubert, features, clusters)
            last = number == len(options.iterations)
            layer, clusters = self._choose_layer(number, hubert, options.clusters if last else options.target_clusters)
            features = layer_features(hubert, layer, options.smoothing)
        return SpeechEncoder(hubert, layer, edge_padding(hubert.config), options.smoothing, True, clusters)

    def _train(
        self, number: int, steps: int, hubert: HubertModel, features: Features, clusters: Clusters
    ) -> HubertModel:
        folder = self.out / f"iteration-{number}"
        if not (folder / WEIGHTS).is_file():
            with self.processes.main_first():
                targets = self._targets(folder / "targets.safetensors", features, clusters)
            torch.manual_seed(self.training.seed + number)
            config = replace(self.training, steps=steps, seed=self.training.seed + number)
            task = MaskedPrediction(config, hubert, self.clips, targets, len(clusters))
            train(task, folder)
            if is_main_process():
                task.model.save_pretrained(folder)
            self.processes.wait()
        return HubertModel.from_pretrained(folder)

    def _targets(self, path: Path, features: Features, clusters: Clusters) -> list[np.ndarray]:
        """Cluster of every frame of every clip, int16 [frames] each; kept in `path` for a restart."""
        edges = np.cumsum([len(clip) // HOP for clip in self.clips])
        if not path.is_file():
            targets = [clusters.assign(features(as_floats(clip))) for clip in self.clips]
            with atomic_write(path) as temporary:
                save_file({"targets": np.concatenate(targets)}, temporary)
        return np.split(load_file(path)["targets"], edges[:-1])

    def _choose_layer(self, number: int, hubert: HubertModel, count: int) -> tuple[int, Clusters]:
        """Fit k-means on each layer of the upper half; take the best by phones, without phones the middle one."""
        options, has_phones = self.options, any(clip.phones for clip in self.probe)
        upper = list(range(options.layers // 2 + 1, options.layers + 1))
        found: list[tuple[float, int, Clusters]] = []
        for layer in upper if has_phones else [upper[len(upper) // 2]]:
            name, features = f"iteration-{number}-layer-{layer}", layer_features(hubert, layer, options.smoothing)
            clusters = self._clusters(name, features, count, hubert.config.hidden_size)
            quality = probe_quality(self.probe, features, clusters) if has_phones else 0.0
            log.info("%s: units tell %.3f of the phones", name, quality)
            found.append((quality, layer, clusters))
        _, layer, clusters = max(found, key=lambda one: one[0])
        return layer, clusters

    def _clusters(self, name: str, features: Features, count: int, hubert_width: int = 0) -> Clusters:
        options, path = self.options, self.out / "clusters" / f"{name}.safetensors"
        with self.processes.main_first():
            if not path.is_file():
                sample = sample_features(self.clips, features, options.kmeans_minutes, options.seed)
                fit_clusters(sample, count, hubert_width, options.hubert_variance, options.seed).save(path)
        return Clusters.load(path)


def make_units(recipe: Recipe, out: Path) -> None:
    """Quantize the recordings, or take published units of them."""
    options = recipe.units
    if options.source == "unit-files":
        source = UnitFiles(recipe.data / options.folder, options.count, recipe.recordings)
        import_corpus(recipe.data, recipe.recordings, source.read, source.write, out)
    else:
        quantize(recipe.runs / RECORDINGS, recipe.runs / ENCODER, out)


def make_durations(recipe: Recipe, out: Path) -> None:
    """Train the duration predictor of our own vocoder."""
    torch.manual_seed(recipe.seed)
    predictor = DurationPredictor(_sizes(recipe))
    sentences = [row.speech_units for row in iterate_unit_tables(recipe.runs / UNITS, "train") if len(row.speech_units)]
    task = DurationTask(recipe.durations, predictor, sentences)
    train(task, out)
    if is_main_process():
        save_torch_file(task.model.state_dict(), out / WEIGHTS)


def make_vocoder(recipe: Recipe, out: Path) -> None:
    """Train our own vocoder or the published HiFi-GAN, or copy a published one."""
    kind = recipe.vocoder.kind
    if kind == "published":
        copy_published(recipe.vocoder.folder, CONFIG, "im2sp convert hifigan", out)
        return
    with Distributed().main_first():
        clips = store_clips(recipe.runs / RECORDINGS, recipe.runs / UNITS, "train", out / CLIPS)
    torch.manual_seed(recipe.seed)
    (_train_hifigan if kind == "hifigan" else _train_own_vocoder)(recipe, clips, out)
    if is_main_process():
        (out / CLIPS).unlink()


def _train_own_vocoder(recipe: Recipe, clips: StoredClips, out: Path) -> None:
    task = VocoderTask(recipe.own_vocoder_training, UnitVocoder(_sizes(recipe)), clips)
    train(task, out)
    predictor = DurationPredictor(_sizes(recipe))
    predictor.load_state_dict(load_torch_file(recipe.runs / DURATIONS / WEIGHTS))
    if is_main_process():
        save_vocoder(task.model, predictor, out)


def _train_hifigan(recipe: Recipe, clips: StoredClips, out: Path) -> None:
    """Train a HiFi-GAN with a voice for each speaker, where there are several."""
    speakers = len(clips.speakers) if len(clips.speakers) > 1 else 0
    vocoder = UnitHifigan(replace(recipe.hifigan, units=_unit_count(recipe), speakers=speakers))
    task = HifiganTask(recipe.hifigan_training, vocoder, clips)
    train(task, out)
    if is_main_process():
        task.fold_weight_norm().save(out)
        write_json(out / SPEAKERS, clips.speakers)


def copy_published(folder: str, needs: str, command: str, out: Path) -> None:
    """Copy the files of a converted checkpoint.

    Raises Im2SpError when there is none.
    """
    if not folder or not (Path(folder) / needs).is_file():
        raise Im2SpError(f"{folder or 'an empty `folder`'} holds no {needs}: give what `{command}` wrote")
    if is_main_process():
        shutil.copytree(folder, out, dirs_exist_ok=True)


def _unit_count(recipe: Recipe) -> int:
    if recipe.units.source == "unit-files":
        return recipe.units.count
    return len(Clusters.load(recipe.runs / ENCODER / CLUSTERS))


def _sizes(recipe: Recipe) -> VocoderConfig:
    return replace(recipe.own_vocoder, units=_unit_count(recipe))


def _trains_vocoder(recipe: Recipe) -> bool:
    return recipe.vocoder.kind != "published"


def _trains(recipe: Recipe) -> bool:
    return _trains_vocoder(recipe) or recipe.speech_encoder.source == "train"


STAGES = [
    Stage[Recipe]("recordings", RECORDINGS, make_recordings, when=_trains),
    Stage[Recipe]("hubert", ENCODER, make_encoder, (RECORDINGS,), distributed=True),
    Stage[Recipe]("quantize", UNITS, make_units, (RECORDINGS, ENCODER), when=_trains_vocoder),
    Stage[Recipe](
        "durations", DURATIONS, make_durations, (ENCODER, UNITS), lambda r: r.vocoder.kind == "own", distributed=True
    ),
    Stage[Recipe]("vocoder", VOCODER, make_vocoder, (RECORDINGS, ENCODER, UNITS, DURATIONS), distributed=True),
]


def smoke(folder: Path) -> Recipe:
    """Write a few recordings of tones; return a recipe that trains on them in seconds."""
    rng = np.random.default_rng(0)
    for number in range(12):
        notes = rng.integers(2, 20, size=8) * 60.0
        wave = 0.3 * np.sin(np.repeat(notes, SAMPLE_RATE // 8).cumsum() * (2 * np.pi / SAMPLE_RATE))
        path = folder / "recordings" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, SAMPLE_RATE)
    return Recipe(
        "voice",
        data=folder / "recordings",
        runs=folder / "voice",
        recordings=RecordingOptions("folder", dev_percent=25),
        speech_encoder=EncoderOptions(
            layers=2, width=64, first_clusters=10, target_clusters=12, clusters=16, iterations=(3, 3), kmeans_minutes=1
        ),
        hubert=HubertTraining(batch_seconds=4, warm_up=2),
        own_vocoder=VocoderConfig(
            width=32, feed_forward=64, slow_blocks=1, fast_blocks=1, duration_width=32, duration_blocks=1
        ),
        own_vocoder_training=VocoderTraining(steps=6, batch=2, segment_frames=16, warm_up=2),
        durations=DurationTraining(steps=6, batch=4, warm_up=2),
    )
