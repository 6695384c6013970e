"""Converted models -> a bundle that the runtime loads (docs/bundle.md)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from im2sp.bundle import (
    SPECIAL_TOKENS,
    Bundle,
    BundleConfig,
    DecodingDefaults,
    SpeechEncoderConfig,
    VocabularyConfig,
    VocoderConfig,
)
from im2sp.graphs import Graphs
from im2sp.lab.convert.git import Git, vision_image_config
from im2sp.lab.convert.hifigan import export_hifigan
from im2sp.lab.export import Precision
from im2sp.lab.models.speech_encoder import SpeechEncoder
from im2sp.lab.models.unit_hifigan import UnitHifigan
from im2sp.lab.stages.export import (
    check_units,
    decoder_config,
    export_decoder,
    export_image_encoder,
    export_speech_encoder,
    finish_bundle,
)

BEAM, LENGTH_PENALTY, LONGEST = 5, 1.0, 512  # the paper's generation: at most 512 tokens, greedy or beam search
CARD = """# {name}

{description}. An im2sp bundle, read by `im2sp caption PHOTO -o OUT --model THIS_FOLDER`.

The weights are those of published checkpoints, converted by `im2sp-lab convert`. Nothing was trained or measured in
between; what they are good for, what they get wrong and who may use them stands where they were published.
"""


def write_bundle(
    git: Git,
    vocoder: UnitHifigan,
    encoder: SpeechEncoder | None,
    folder: Path,
    name: str,
    precision: Precision = "fp16",
    speaker: int = 0,
) -> Bundle:
    """Write a bundle of converted parts into an empty folder and check that the runtime accepts it.

    Args:
        git: a converted Im2Sp, whose token 3 + u stands for unit u.
        vocoder: what speaks the units.
        encoder: what hears the units, if the bundle is to have it.
        speaker: voice of a vocoder that has several.

    Raises:
        Im2SpError: the parts do not have the same units, or there is no such speaker.
    """
    units = git.translator.config.vocabulary_size - SPECIAL_TOKENS
    check_units(units, {"vocoder": vocoder.config.units, "speech encoder": encoder.units if encoder else units})
    vision = git.vision.config
    parameters = {
        "image_encoder": export_image_encoder(git.vision, vision.image_size, git.translator, folder, precision),
        "decoder": export_decoder(git.translator, vision.image_tokens, folder, precision),
        **export_hifigan(vocoder, folder, precision, speaker),
    }
    if encoder is not None:
        parameters["speech_encoder"] = export_speech_encoder(encoder, folder, precision)
    positions = git.translator.config.max_positions
    config = BundleConfig(
        name=name,
        version="1",
        description="Describes photos aloud with converted weights of an Im2Sp and a unit HiFi-GAN",
        license="that of the published checkpoints",
        language="en",
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        image=vision_image_config(vision),
        decoder=decoder_config(git.translator.config),
        vocabulary=VocabularyConfig(units=units, subwords=[[unit] for unit in range(units)]),
        vocoder=VocoderConfig(units=units, context_frames=vocoder.config.context_frames),
        speech_encoder=SpeechEncoderConfig(units=units) if encoder else None,
        decoding=DecodingDefaults(beam=BEAM, length_penalty=LENGTH_PENALTY, max_tokens=min(LONGEST, positions)),
        training={"origin": "published checkpoints"},
        quality={},
        parameters=parameters,
    )
    finish_bundle(folder, config, CARD.format(name=config.name, description=config.description))
    bundle = Bundle.load(folder)
    Graphs(bundle).check()
    return bundle
