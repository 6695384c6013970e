"""Stage `export`: trained models of a run -> a bundle that the runtime loads."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import torch

from im2sp.bundle import (
    Bundle,
    BundleConfig,
    ConfidenceConfig,
    DecoderConfig,
    DecodingDefaults,
    ImageConfig,
    ImageUnitsConfig,
    SpeechEncoderConfig,
    VocoderConfig,
    write_checksums,
    write_config,
)
from im2sp.errors import Im2SpError
from im2sp.files import MODEL_CARD, replace_whole, sha256_of
from im2sp.onnx import Graphs
from im2sp.onnx.external_data import data_file
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.convert.hifigan import export_hifigan
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.image_encoders import ImageEncoder
from im2sp.train.model_card import model_card, read_figures
from im2sp.train.models.git import CachedDecoderStep, GitDecoder, GitDecoderConfig, ImagePrefix
from im2sp.train.models.saving import WEIGHTS
from im2sp.train.models.speech_encoder import SpeechEncoder
from im2sp.train.models.unit_hifigan import UnitHifigan, UnitHifiganConfig
from im2sp.train.models.unit_vocoder import DURATION_TOLERANCE, load_vocoder
from im2sp.train.onnx_export import Precision, export_graph, export_sequence

Facts = dict[str, str | int | float]
SPEECH_GRAPHS = ("vocoder", "duration_predictor", "speech_encoder")


@dataclass(frozen=True)
class BundleSources:
    """The finished stages that a bundle is made of."""

    encoder: ImageEncoder
    translator: Path
    subwords: Path
    vocoder: Path  # of the stage `vocoder`, or of `im2sp-lab convert hifigan`
    speech_encoder: Path
    parent: Bundle | None = None  # gives its voice in place of vocoder and speech encoder
    said: Path | None = None  # by which units of the voice the subwords are said (stage `resound`), where by others


@dataclass(frozen=True)
class BundleOptions:
    """How a bundle is written."""

    name: str = "flickr8k-joe"
    version: str = "0.1.0"
    description: str = "Describes photos of people, animals and sports aloud, in English, in one male voice"
    language: str = "en"
    license: str = "weights for research use (trained on Flickr8k photos); voice CC0; image backbone Apache-2.0"
    precision: Precision = "mixed"
    beam: int = 5
    length_penalty: float = 1.0
    longest: int = 96  # tokens of a description
    speaker: int = 0  # voice of a converted vocoder that has several


@dataclass(frozen=True)
class ImageUnitModules:
    """What a bundle with image units is made of, where another has an image encoder."""

    image: ImageConfig  # the pictures that the tokenizer takes
    config: ImageUnitsConfig  # the units that it makes; the export fills in `checksum` and `reconstructs`
    tokenizer: torch.nn.Module  # normalised pixels [B, 3, height, width] -> image units int64 [B, units]
    backbone: torch.nn.Module  # image units int64 [B, units], the whole grid -> image features [B, image_tokens, width]
    decoder: torch.nn.Module | None = None  # image units int64 [B, units] -> pixels [B, 3, height, width] in [0, 1]


def export_bundle(
    sources: BundleSources,
    options: BundleOptions,
    training: Facts,
    quality: Facts,
    out: Path,
    image_units: ImageUnitModules | None = None,
) -> Bundle:
    """Write a bundle beside `out`, check that the runtime accepts it, then move it into place.

    Args:
        image_units: what sees photos instead of the image encoder of `sources`.

    Raises:
        Im2SpError: the parts do not have the same units.
    """
    staging = out.with_name(f".{out.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    translator = GitDecoder.load(sources.translator)
    sizes = translator.config
    units_config: ImageUnitsConfig | None = None
    if image_units is None:
        image = sources.encoder.image
        seen = sources.encoder.load()
        encoder_size = export_image_encoder(seen, image.height, translator, staging, options.precision)
        seeing = {"image_encoder": encoder_size}
    else:
        image = image_units.image
        units_config, seeing = export_image_units(image_units, translator, staging, options.precision)
    voice, hearing, speaking = _export_speech(sources, staging, options)
    subwords = UnitSubwords.load(sources.subwords, voice.units)
    said = None if sources.said is None else json.loads(sources.said.read_text())
    parameters = {
        **seeing,
        "decoder": export_decoder(translator, image.image_tokens, staging, options.precision),
        **speaking,
    }
    config = BundleConfig(
        name=options.name,
        version=options.version,
        description=options.description,
        license=options.license,
        language=options.language,
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        image=image,
        image_units=units_config,
        decoder=decoder_config(sizes),
        vocabulary=subwords.vocabulary(said),
        vocoder=voice,
        speech_encoder=hearing,
        decoding=DecodingDefaults(
            beam=options.beam,
            length_penalty=options.length_penalty,
            max_tokens=min(options.longest, sizes.max_positions),
        ),
        training=training,
        parameters=parameters,
    )
    finish_bundle(staging, config, model_card(config, quality))
    Graphs(Bundle.load(staging)).check()
    shutil.rmtree(out, ignore_errors=True)
    staging.rename(out)
    return Bundle.load(out)


def check_units(units: int, parts: dict[str, int]) -> None:
    """Make sure that the parts of a bundle, by name, have the units of its translator.

    Raises:
        Im2SpError: one has others.
    """
    for part, found in parts.items():
        if found != units:
            raise Im2SpError(f"the {part} has {found} units, the translator {units}: give parts that belong together")


def _export_speech(
    sources: BundleSources, out: Path, options: BundleOptions
) -> tuple[VocoderConfig, SpeechEncoderConfig | None, dict[str, int]]:
    """Graphs of what speaks and hears, those of a parent as they are; their configs and parameters."""
    if sources.parent is not None:
        config = sources.parent.config
        names = [name for name in SPEECH_GRAPHS if f"{name}.onnx" in sources.parent.checksums]
        for name in names:
            for file in (f"{name}.onnx", data_file(Path(f"{name}.onnx")).name):
                if file in sources.parent.checksums:
                    shutil.copyfile(sources.parent.folder / file, out / file)
        return config.vocoder, config.speech_encoder, {name: config.parameters[name] for name in names}
    encoder = SpeechEncoder.load(sources.speech_encoder)
    voice, parameters = export_voice(sources.vocoder, out, options)
    check_units(encoder.units, {"vocoder": voice.units})
    parameters["speech_encoder"] = export_speech_encoder(encoder, out, options.precision)
    return voice, SpeechEncoderConfig(units=encoder.units), parameters


def export_voice(folder: Path, out: Path, options: BundleOptions) -> tuple[VocoderConfig, dict[str, int]]:
    """Graphs `vocoder` and `duration_predictor`; returns what the runtime must know of them, and their parameters."""
    if (folder / WEIGHTS).is_file():  # ours has two files of weights
        published = UnitHifigan.load(folder)
        return hifigan_config(published.config), export_hifigan(published, out, options.precision, options.speaker)
    vocoder, durations = load_vocoder(folder)
    own = vocoder.config
    sizes = VocoderConfig(
        units=own.units,
        context_frames=own.context_frames,
        duration_context=own.duration_context,
        duration_tolerance=DURATION_TOLERANCE,
    )
    return sizes, {
        "vocoder": export_sequence(vocoder, "vocoder", "frames", "waveform", out, options.precision),
        "duration_predictor": export_sequence(
            durations, "duration_predictor", "units", "log_durations", out, options.precision
        ),
    }


def hifigan_config(sizes: UnitHifiganConfig) -> VocoderConfig:
    """Return the config of a converted HiFi-GAN: published vocoders round each duration by itself."""
    return VocoderConfig(
        units=sizes.units,
        context_frames=sizes.context_frames,
        duration_context=sizes.duration_context,
        duration_tolerance=100,
    )


def decoder_config(sizes: GitDecoderConfig) -> DecoderConfig:
    """What the runtime must know of a translator to run its decoder graph."""
    return DecoderConfig(
        layers=sizes.layers,
        heads=sizes.heads,
        head_dim=sizes.head_dim,
        vocabulary_size=sizes.vocabulary_size,
        max_tokens=sizes.max_positions,
    )


def set_quality(folder: Path, quality: Facts) -> Bundle:
    """Write measured figures, beside those of other stages, into the model card of a bundle."""
    return _change(folder, quality)


def set_confidence(folder: Path, confidence: ConfidenceConfig, quality: Facts) -> Bundle:
    """The same for a calibration and its figures."""
    return _change(folder, quality, confidence=confidence)


def _change(folder: Path, quality: Facts, **update: object) -> Bundle:
    before = Bundle.load(folder).config
    config = msgspec.structs.replace(before, **update)
    finish_bundle(folder, config, model_card(config, read_figures(folder) | quality))
    return Bundle.load(folder)


def finish_bundle(folder: Path, config: BundleConfig, card: str) -> None:
    """Write what stands beside the graphs of a bundle: config, model card and, last, the checksums of all files."""
    write_config(folder, config)
    with replace_whole(folder / MODEL_CARD) as temporary:
        temporary.write_text(card, encoding="utf-8")
    write_checksums(folder)


def read_facts(path: Path) -> Facts:
    """Facts from a JSON file; none when there is no such file."""
    return json.loads(path.read_text()) if path.is_file() else {}


def export_image_encoder(
    backbone: torch.nn.Module, side: int, translator: GitDecoder, folder: Path, precision: Precision
) -> int:
    """Graph `image_encoder` for pictures of side x side pixels; returns its parameters."""
    return export_graph(
        ImagePrefix(backbone, translator),
        [torch.zeros(1, 3, side, side)],
        (["pixels"], ["prefix_keys", "prefix_values"]),
        {"pixels": {0: "batch"}, "prefix_keys": {1: "batch"}, "prefix_values": {1: "batch"}},
        folder / "image_encoder.onnx",
        precision,
    )


def export_image_units(
    modules: ImageUnitModules, translator: GitDecoder, folder: Path, precision: Precision
) -> tuple[ImageUnitsConfig, dict[str, int]]:
    """Graphs `image_tokenizer`, `image_decoder_prefix` and, where there is a decoder, `image_decoder`.

    A tokenizer is not stored as int8 where the precision is mixed or int8, but as float16: the nearest of many centres
    flips where a feature moves a little. With the late convolutions and the projection in int8, one cell in ten got
    other semantic units than torch gives it. Below fp32, a few units still differ from those that training saw.

    Returns:
        The config of the image units with the checksum of the tokenizer, and the parameters of each graph.
    """
    image, units = modules.image, modules.config.units
    examples = {"pixels": torch.zeros(2, 3, image.height, image.width), "image_units": torch.zeros(2, units).long()}

    def export(
        name: str,
        module: torch.nn.Module,
        source: str,
        targets: list[str],
        batch: int = 0,
        stored: Precision = precision,
    ) -> int:
        dynamic = {source: {0: "batch"}, **{target: {batch: "batch"} for target in targets}}
        return export_graph(module, [examples[source]], ([source], targets), dynamic, folder / f"{name}.onnx", stored)

    prefix = ImagePrefix(modules.backbone, translator)
    parameters = {
        "image_tokenizer": export(
            "image_tokenizer",
            modules.tokenizer,
            "pixels",
            ["image_units"],
            stored="fp16" if precision in ("mixed", "int8") else precision,
            # The checksum of the image units is that of this file, so its weights are in it.
        ),
        "image_decoder_prefix": export(
            "image_decoder_prefix", prefix, "image_units", ["prefix_keys", "prefix_values"], batch=1
        ),
    }
    if modules.decoder is not None:
        parameters["image_decoder"] = export("image_decoder", modules.decoder, "image_units", ["pixels"])
    checksum = sha256_of(folder / "image_tokenizer.onnx")
    filled_in = msgspec.structs.replace(modules.config, checksum=checksum, reconstructs=modules.decoder is not None)
    return filled_in, parameters


def export_decoder(translator: GitDecoder, image_tokens: int, folder: Path, precision: Precision) -> int:
    """Graph `decoder`; returns its parameters."""
    config = translator.config
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
    step = CachedDecoderStep(translator, image_tokens)
    return export_graph(step, inputs, names, dynamic, folder / "decoder.onnx", precision)


def export_speech_encoder(encoder: SpeechEncoder, folder: Path, precision: Precision) -> int:
    """Graph `speech_encoder`; returns its parameters."""
    return export_graph(
        encoder,
        [torch.zeros(1, SAMPLE_RATE)],
        (["waveform"], ["units"]),
        {"waveform": {1: "samples"}, "units": {1: "frames"}},
        folder / "speech_encoder.onnx",
        precision,
    )
