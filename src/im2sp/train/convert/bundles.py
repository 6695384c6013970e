"""Converted models -> a bundle that the runtime loads (docs/bundle.md)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from im2sp.bundle import (
    SPECIAL_TOKENS,
    Bundle,
    BundleConfig,
    DecodingDefaults,
    ImageConfig,
    ImageUnitsConfig,
    SpeechEncoderConfig,
    VocabularyConfig,
)
from im2sp.errors import Im2SpError
from im2sp.onnx import Graphs
from im2sp.train.convert.git import Git, vision_image_config
from im2sp.train.convert.hifigan import export_hifigan
from im2sp.train.convert.im2sp import ImageUnitGit
from im2sp.train.export import (
    ImageUnitModules,
    check_units,
    decoder_config,
    export_decoder,
    export_image_encoder,
    export_image_units,
    export_speech_encoder,
    finish_bundle,
    hifigan_config,
)
from im2sp.train.image_encoders import features_of_units, unit_image_config
from im2sp.train.models.speech_encoder import SpeechEncoder
from im2sp.train.models.token_vit import TokenVit
from im2sp.train.models.unit_hifigan import UnitHifigan
from im2sp.train.models.vit_vqgan import PixelsFromUnits, VitVqgan
from im2sp.train.onnx_export import Precision

BEAM, LENGTH_PENALTY, LONGEST = 5, 1.0, 512  # the paper's generation: at most 512 tokens, greedy or beam search
CARD = """# {name}

{description}. An im2sp bundle, read by `im2sp caption PHOTO -o OUT --model THIS_FOLDER`.

The weights are those of published checkpoints, converted by `im2sp-lab convert`. Nothing was trained or measured in
between; what they are good for, what they get wrong and who may use them stands where they were published.
"""


def write_bundle(
    model: Git | ImageUnitGit,
    vocoder: UnitHifigan,
    encoder: SpeechEncoder | None,
    folder: Path,
    name: str,
    precision: Precision = "fp16",
    speaker: int = 0,
) -> Bundle:
    """Write a bundle of converted parts into an empty folder and check that the runtime accepts it.

    Where the precision is int8, what speaks and hears is stored as float16: it is small, and its rounding is heard.

    Args:
        model: a converted Im2Sp, whose token 3 + u stands for unit u.
        vocoder: what speaks the units.
        encoder: what hears the units, if the bundle is to have it.
        speaker: voice of a vocoder that has several.

    Raises:
        Im2SpError: the parts do not have the same units, there is no such speaker, or an Im2Sp of image units has no
            image tokenizer.
    """
    translator = model.translator
    units = translator.config.vocabulary_size - SPECIAL_TOKENS
    check_units(units, {"vocoder": vocoder.config.units, "speech encoder": encoder.units if encoder else units})
    of_speech = "fp16" if precision == "int8" else precision
    image, image_units, parameters = _export_seeing(model, folder, name, precision)
    parameters["decoder"] = export_decoder(translator, image.image_tokens, folder, precision)
    parameters |= export_hifigan(vocoder, folder, of_speech, speaker)
    if encoder is not None:
        parameters["speech_encoder"] = export_speech_encoder(encoder, folder, of_speech)
    positions = translator.config.max_positions
    config = BundleConfig(
        name=name,
        version="1",
        description="Describes photos aloud with converted weights of an Im2Sp and a unit HiFi-GAN",
        license="that of the published checkpoints",
        language="en",
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        image=image,
        image_units=image_units,
        decoder=decoder_config(translator.config),
        vocabulary=VocabularyConfig(units=units, subwords=[[unit] for unit in range(units)]),
        vocoder=hifigan_config(vocoder.config),
        speech_encoder=SpeechEncoderConfig(units=units) if encoder else None,
        decoding=DecodingDefaults(beam=BEAM, length_penalty=LENGTH_PENALTY, max_tokens=min(LONGEST, positions)),
        training={"origin": "published checkpoints"},
        parameters=parameters,
    )
    finish_bundle(folder, config, CARD.format(name=config.name, description=config.description))
    bundle = Bundle.load(folder)
    Graphs(bundle).check()
    return bundle


def _export_seeing(
    model: Git | ImageUnitGit, folder: Path, name: str, precision: Precision
) -> tuple[ImageConfig, ImageUnitsConfig | None, dict[str, int]]:
    """Write the graphs between a photo and the decoder; returns what the config says of them."""
    if isinstance(model, ImageUnitGit):
        if model.tokenizer is None:
            raise Im2SpError(
                "this Im2Sp looks at image units, and a bundle needs what makes them: give --codebook where the "
                "checkpoint has the image tokenizer, or --image-tokenizer with what `convert vit-vqgan` wrote"
            )
        modules = vit_vqgan_modules(model.tokenizer, model.token_vit, f"{name}-vit-vqgan")
        image_units, parameters = export_image_units(modules, model.translator, folder, precision)
        return modules.image, image_units, parameters
    vision = model.vision.config
    size = export_image_encoder(model.vision, vision.image_size, model.translator, folder, precision)
    return vision_image_config(vision), None, {"image_encoder": size}


def vit_vqgan_modules(tokenizer: VitVqgan, token_vit: TokenVit, name: str) -> ImageUnitModules:
    """Collect what a bundle needs whose decoder sees a ViT-VQGAN's units through a token ViT.

    Args:
        name: of the tokenizer, for people.
    """
    crop, sizes = token_vit.config.crop, tokenizer.config
    return ImageUnitModules(
        image=unit_image_config(sizes, token_vit.config),
        config=ImageUnitsConfig(
            kind="vit-vqgan",
            tokenizer=name,
            checksum="0" * 64,  # which the export fills in
            grid=(sizes.grid, sizes.grid),
            codes=1,
            codebook_size=sizes.codebook_size,
            crop=(crop, crop),
        ),
        tokenizer=tokenizer,
        backbone=features_of_units(tokenizer, token_vit),
        decoder=PixelsFromUnits(tokenizer) if sizes.decoder_layers else None,
    )
