"""Trained or converted models -> a bundle that the runtime loads (docs/bundle.md). No other code writes bundles."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import torch
from torch import nn

from im2sp.bundle import (
    Bundle,
    BundleConfig,
    ConfidenceConfig,
    DecoderConfig,
    DecodingDefaults,
    ImageConfig,
    ImageUnitsConfig,
    SpeechEncoderConfig,
    VocabularyConfig,
    VocoderConfig,
    tokenizer_checksum,
    write_checksums,
    write_config,
)
from im2sp.errors import Im2SpError
from im2sp.files import MODEL_CARD, atomic_write, new_folder, sha256_of
from im2sp.onnx import Graphs
from im2sp.onnx.external_data import data_file
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.model_card import Facts, model_card, with_figures
from im2sp.train.models.git import CachedDecoderStep, GitDecoder, GitDecoderConfig, ImagePrefix
from im2sp.train.models.saving import WEIGHTS, Exported
from im2sp.train.models.speech_encoder import SpeechEncoder
from im2sp.train.models.unit_hifigan import UnitHifigan
from im2sp.train.models.unit_vocoder import DURATION_TOLERANCE, DurationPredictor, UnitVocoder, load_vocoder
from im2sp.train.onnx_export import Precision, export_graph

VOICE_GRAPHS = ("vocoder", "duration_predictor", "speech_encoder")
EACH_BY_ITSELF = 100  # duration tolerance of published vocoders, which round each duration by itself


@dataclass(frozen=True)
class BundleOptions:
    """Section [bundle]: what the bundle says of itself, its precision, and the decoding that it recommends."""

    name: str = "captioner"
    version: str = "0.1.0"
    description: str = "Describes photos aloud"
    language: str = "en"
    license: str = "not stated by its recipe"
    limitations: tuple[str, ...] = ()  # known errors, one sentence or more each, for the model card
    precision: Precision = "mixed"
    beam: int = 5
    length_penalty: float = 1.0
    max_tokens: int = 96
    max_repeats: int = 4
    early_stopping: bool = False
    presence_penalty: float = 0.0
    speaker: int = 0  # of a vocoder with several


@dataclass(frozen=True)
class ImageModules:
    """What turns pixels into image features, directly or by way of image units.

    Attributes:
        image: preprocessing, and the grid of the image tokens.
        backbone: normalised pixels float32 [B, 3, height, width], or image units int64 [B, units] where there is a
            tokenizer -> image features float32 [B, image_tokens, width].
        tokenizer: normalised pixels -> image units int64 [B, units].
        units: description of the image units. The export fills in `checksum` and `reconstructs`.
        decoder: image units -> pixels float32 [B, 3, height, width] in [0, 1].
        token_bonus: what `backbone` gives -> bonus of each token in logits float32 [B, vocabulary_size].
        token_evidence: the same -> log odds that a caption holds each token.
    """

    image: ImageConfig
    backbone: nn.Module
    tokenizer: nn.Module | None = None
    units: ImageUnitsConfig | None = None
    decoder: nn.Module | None = None
    token_bonus: nn.Module | None = None
    token_evidence: nn.Module | None = None

    @property
    def by_token(self) -> dict[str, nn.Module]:
        """Modules that give a number for each token, by the names of their outputs."""
        both = {"token_bonus": self.token_bonus, "token_evidence": self.token_evidence}
        return {name: module for name, module in both.items() if module is not None}


@dataclass(frozen=True)
class TrainedVoice:
    """Models between speech units and sound."""

    vocoder: UnitVocoder | UnitHifigan
    durations: DurationPredictor | None  # of `UnitVocoder`; a unit HiFi-GAN has its own
    speech_encoder: SpeechEncoder | None

    @classmethod
    def load(cls, vocoder: Path, speech_encoder: Path | None) -> TrainedVoice:
        """Load a vocoder, ours or a unit HiFi-GAN, and a speech encoder."""
        encoder = SpeechEncoder.load(speech_encoder) if speech_encoder else None
        if (vocoder / WEIGHTS).is_file():  # ours has two files of weights
            return cls(UnitHifigan.load(vocoder), None, encoder)
        return cls(*load_vocoder(vocoder), encoder)


@dataclass(frozen=True)
class BundleParts:
    """The models of a bundle. Of a voice that is a bundle, the graphs are copied as they are."""

    image: ImageModules
    decoder: GitDecoder
    vocabulary: VocabularyConfig
    voice: TrainedVoice | Bundle


def export_bundle(parts: BundleParts, options: BundleOptions, training: Facts, out: Path) -> Bundle:
    """Write a bundle beside `out`, check that the runtime accepts it, then move it into place.

    Args:
        training: what it was trained on, for its config and model card.

    Raises:
        Im2SpError: the parts do not have the same units, the vocoder has no such speaker, or `out` cannot be written.
    """
    with new_folder(out, replace=True) as staging:
        config = _write_graphs(parts, options, training, staging)
        write_config(staging, config)
        write_checksums(staging)
        (staging / MODEL_CARD).write_text(model_card(config, options.limitations), encoding="utf-8")
        Graphs(Bundle.load(staging)).check()
    return Bundle.load(out)


def replace_vocoder(bundle: Bundle, voice: TrainedVoice, out: Path) -> None:
    """Write a copy of a bundle that speaks by another vocoder and duration predictor of the same units."""
    with new_folder(out, replace=True) as staging:
        shutil.copytree(bundle.folder, staging, dirs_exist_ok=True)
        vocoder, parameters = export_vocoder(voice, staging, "mixed")
        _check_same_units("vocoder", vocoder.units, "bundle", bundle.config.vocoder.units)
        sizes = bundle.config.parameters | parameters
        write_config(staging, msgspec.structs.replace(bundle.config, vocoder=vocoder, parameters=sizes))
        write_checksums(staging)
        Graphs(Bundle.load(staging)).check()


def _write_graphs(parts: BundleParts, options: BundleOptions, training: Facts, folder: Path) -> BundleConfig:
    precision = options.precision
    image_units, parameters = export_image(parts.image, parts.decoder, folder, precision)
    parameters["decoder"] = export_decoder(parts.decoder, parts.image.image.image_tokens, folder, precision)
    decoder = decoder_config(parts.decoder.config, parts.image.by_token)
    vocoder, speech_encoder, voice_parameters = _export_voice(parts.voice, folder, options)
    _check_same_units("voice", vocoder.units, "decoder", parts.vocabulary.units)
    return BundleConfig(
        name=options.name,
        version=options.version,
        description=options.description,
        license=options.license,
        language=options.language,
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        image=parts.image.image,
        image_units=image_units,
        decoder=decoder,
        vocabulary=parts.vocabulary,
        vocoder=vocoder,
        speech_encoder=speech_encoder,
        decoding=DecodingDefaults(
            beam=options.beam,
            length_penalty=options.length_penalty,
            max_tokens=min(options.max_tokens, decoder.max_tokens),
            max_repeats=options.max_repeats,
            early_stopping=options.early_stopping,
            presence_penalty=options.presence_penalty,
        ),
        training=training,
        parameters=parameters | voice_parameters,
    )


def _check_same_units(part: str, units: int, other: str, others: int) -> None:
    if units != others:
        raise Im2SpError(f"the {part} has {units} units, the {other} {others}: give parts that belong together")


def set_confidence(folder: Path, confidence: ConfidenceConfig, figures: Facts) -> None:
    """Write a calibration into the config of a bundle, and its figures into the model card."""
    write_config(folder, msgspec.structs.replace(Bundle.load(folder).config, confidence=confidence))
    write_checksums(folder)
    card = folder / MODEL_CARD
    with atomic_write(card) as temporary:
        temporary.write_text(with_figures(card.read_text(encoding="utf-8"), figures), encoding="utf-8")


def decoder_config(sizes: GitDecoderConfig, by_token: Collection[str] = ()) -> DecoderConfig:
    """Sizes of the decoder graph, and what the graph before it gives for each token."""
    return DecoderConfig(
        layers=sizes.layers,
        heads=sizes.heads,
        head_dim=sizes.head_dim,
        vocabulary_size=sizes.vocabulary_size,
        max_tokens=sizes.max_positions,
        token_bonus="token_bonus" in by_token,
        token_evidence="token_evidence" in by_token,
    )


def export_image(
    modules: ImageModules, decoder: GitDecoder, folder: Path, precision: Precision
) -> tuple[ImageUnitsConfig | None, dict[str, int]]:
    """Write the graphs between a photo and the decoder: `image_encoder`, or those of image units.

    The tokenizer of a ViT-VQGAN is stored as float16 where the precision is mixed or int8: the nearest of many centres
    changes where a feature moves a little. Semantic units are a sum of centres, so that another centre of a late level
    matters little: as "mixed", 6 % of the variance of their cells change, 56 % are kept by the units at all.

    Returns:
        The description of the image units with the checksum of the tokenizer, and {graph: parameters}.
    """
    parameters: dict[str, int] = {}

    def write(name: str, module: nn.Module, example: torch.Tensor, source: str, *targets: str, stored: str) -> None:
        batch = {target: {1 if target.startswith("prefix_") else 0: "batch"} for target in targets}
        dynamic = {source: {0: "batch"}} | batch
        parameters[name] = export_graph(
            module, [example], ([source], targets), dynamic, folder / f"{name}.onnx", stored
        )

    prefix = ImagePrefix(modules.backbone, decoder, list(modules.by_token.values()))
    outputs = ("prefix_keys", "prefix_values", *modules.by_token)
    pixels = torch.zeros(2, 3, modules.image.height, modules.image.width)
    if modules.units is None or modules.tokenizer is None:
        write("image_encoder", prefix, pixels, "pixels", *outputs, stored=precision)
        return None, parameters
    small = "mixed" if modules.units.kind == "semantic" else "fp16"
    stored = small if precision in ("mixed", "int8") else precision
    write("image_tokenizer", modules.tokenizer, pixels, "pixels", "image_units", stored=stored)
    units = torch.zeros(2, modules.units.units, dtype=torch.int64)
    write("image_decoder_prefix", prefix, units, "image_units", *outputs, stored=precision)
    if modules.decoder is not None:
        write("image_decoder", modules.decoder, units, "image_units", "pixels", stored=precision)
    graph = folder / "image_tokenizer.onnx"
    checksum = tokenizer_checksum({path.name: sha256_of(path) for path in (graph, data_file(graph)) if path.is_file()})
    described = msgspec.structs.replace(modules.units, checksum=checksum, reconstructs=modules.decoder is not None)
    return described, parameters


def export_decoder(decoder: GitDecoder, image_tokens: int, folder: Path, precision: Precision) -> int:
    """Write the graph `decoder`; return its parameters."""
    config = decoder.config
    batch, capacity, heads, dim = 3, 8, config.heads, config.head_dim
    layer = {
        "prefix_keys": (torch.zeros(heads, dim, image_tokens), {}),
        "prefix_values": (torch.zeros(heads, image_tokens, dim), {}),
        "past_keys": (torch.zeros(batch, heads, dim, capacity), {0: "batch", 3: "capacity"}),
        "past_values": (torch.zeros(batch, heads, capacity, dim), {0: "batch", 2: "capacity"}),
    }
    cache = {f"{kind}_{index}": part for index in range(config.layers) for kind, part in layer.items()}
    examples = [example.clone() for example, _ in cache.values()]
    inputs = [torch.ones(batch, dtype=torch.int64), torch.tensor([5]), *examples]
    outputs = {"logits": {0: "batch"}, "keys": {1: "batch"}, "values": {1: "batch"}, "attention": {0: "batch"}}
    dynamic = {"tokens": {0: "batch"}, **{name: free for name, (_, free) in cache.items()}, **outputs}
    names = (["tokens", "position", *cache], list(outputs))
    step = CachedDecoderStep(decoder, image_tokens)
    return export_graph(step, inputs, names, dynamic, folder / "decoder.onnx", precision)


def _export_voice(
    voice: TrainedVoice | Bundle, folder: Path, options: BundleOptions
) -> tuple[VocoderConfig, SpeechEncoderConfig | None, dict[str, int]]:
    """Write the graphs of a voice; return the configs of vocoder and speech encoder, and {graph: parameters}."""
    if isinstance(voice, Bundle):
        names = [name for name in VOICE_GRAPHS if f"{name}.onnx" in voice.checksums]
        for name in names:
            for file in (f"{name}.onnx", data_file(Path(f"{name}.onnx")).name):
                if file in voice.checksums:
                    shutil.copyfile(voice.folder / file, folder / file)
        sizes = voice.config.parameters
        return voice.config.vocoder, voice.config.speech_encoder, {name: sizes[name] for name in names if name in sizes}
    precision = "fp16" if options.precision == "int8" else options.precision  # rounding to int8 is heard
    vocoder, parameters = export_vocoder(voice, folder, precision, options.speaker)
    if voice.speech_encoder is None:
        return vocoder, None, parameters
    units = voice.speech_encoder.units
    _check_same_units("speech encoder", units, "vocoder", vocoder.units)
    parameters["speech_encoder"] = export_speech_encoder(voice.speech_encoder, folder, precision)
    return vocoder, SpeechEncoderConfig(units=units), parameters


def export_vocoder(
    voice: TrainedVoice, folder: Path, precision: Precision, speaker: int = 0
) -> tuple[VocoderConfig, dict[str, int]]:
    """Write the graphs `vocoder` and `duration_predictor`; return their config and {graph: parameters}.

    Raises Im2SpError when the vocoder has no such speaker.
    """
    model, tolerance = voice.vocoder, DURATION_TOLERANCE
    sounds: nn.Module = model
    durations: nn.Module | None = voice.durations
    if isinstance(model, UnitHifigan):
        speakers = max(1, model.config.speakers)
        if not 0 <= speaker < speakers:
            raise Im2SpError(f"speaker {speaker} does not exist: this vocoder has speakers 0 to {speakers - 1}")
        sounds = Exported(model, lambda frames: model(frames, speaker))
        durations, tolerance = Exported(model, model.log_durations), EACH_BY_ITSELF
    if durations is None:
        raise Im2SpError("this vocoder has no duration predictor: give the folder that its training wrote")
    parameters = {}
    for name, module, source, target in (
        ("vocoder", sounds, "frames", "waveform"),
        ("duration_predictor", durations, "units", "log_durations"),
    ):
        free, example = {source: {1: source}, target: {1: target}}, torch.zeros(1, 50, dtype=torch.int64)
        names, path = ([source], [target]), folder / f"{name}.onnx"
        parameters[name] = export_graph(module, [example], names, free, path, precision)
    config = VocoderConfig(
        units=model.config.units,
        context_frames=model.config.context_frames,
        duration_context=model.config.duration_context,
        duration_tolerance=tolerance,
    )
    return config, parameters


def export_speech_encoder(encoder: SpeechEncoder, folder: Path, precision: Precision) -> int:
    """Write the graph `speech_encoder`; return its parameters."""
    return export_graph(
        encoder,
        [torch.zeros(1, SAMPLE_RATE)],
        (["waveform"], ["units"]),
        {"waveform": {1: "samples"}, "units": {1: "frames"}},
        folder / "speech_encoder.onnx",
        precision,
    )
