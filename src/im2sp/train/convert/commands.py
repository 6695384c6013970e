"""`im2sp convert`: one command for each kind of published checkpoint. No code in them is ever run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from im2sp.files import new_folder

if TYPE_CHECKING:
    from im2sp.train.export import TrainedVoice

FILE = click.Path(path_type=Path)
PRECISIONS = ("fp32", "fp16", "int8", "mixed")
out_option = click.option("--out", "-o", type=FILE, required=True, help="New folder for the result.")


@click.group(no_args_is_help=True)
def convert() -> None:
    """Convert published checkpoints to models of im2sp. No code in them is ever run."""


@convert.command()
@click.argument("folder", type=FILE)
@click.option("--clusters", type=FILE, required=True, help="k-means: scikit-learn or joblib pickle, or an array.")
@click.option("--layer", default=6, show_default=True, help="Transformer layer whose output was clustered.")
@out_option
def hubert(folder: Path, clusters: Path, layer: int, out: Path) -> None:
    """Convert HuBERT and its k-means file to a speech encoder: speech to units.

    FOLDER has config.json and model.safetensors or pytorch_model.bin, as transformers writes them.
    """
    from im2sp.train.convert.hubert import convert_hubert

    with new_folder(out) as staging:
        model = convert_hubert(folder, clusters, layer)
        model.save(staging)
    click.echo(f"{out}: {model.units} units from layer {layer}")


@convert.command()
@click.argument("checkpoint", type=FILE)
@click.option("--config", type=FILE, required=True, help="config.json that belongs to it.")
@out_option
def hifigan(checkpoint: Path, config: Path, out: Path) -> None:
    """Convert a unit HiFi-GAN with duration predictor to a vocoder: units to speech.

    CHECKPOINT is a file with a "generator".
    """
    from im2sp.train.convert.hifigan import convert_hifigan

    with new_folder(out) as staging:
        model = convert_hifigan(config, checkpoint)
        model.save(staging)
    click.echo(f"{out}: {model.config.units} units, {max(1, model.config.speakers)} voices")


@convert.command()
@click.argument("folder", type=FILE)
@out_option
def git(folder: Path, out: Path) -> None:
    """Convert GIT to its image encoder and a decoder to start training from.

    FOLDER has config.json and model.safetensors or pytorch_model.bin, as transformers writes them; a
    preprocessor_config.json says how pictures are made.
    """
    from im2sp.train.convert.git import convert_git

    with new_folder(out) as staging:
        model = convert_git(folder)
        model.save(staging)
    click.echo(f"{out}: {model.image.image_tokens} image tokens, {model.decoder.config.vocabulary_size} tokens")


@convert.command(name="vit-vqgan")
@click.argument("tokenizer", type=FILE)
@click.option("--codebook", type=FILE, required=True, help="codebook.ckpt: a tensor of one row a unit.")
@out_option
def vit_vqgan(tokenizer: Path, codebook: Path, out: Path) -> None:
    """Convert a ViT-VQGAN and its codebook to an image tokenizer: photos to image units.

    TOKENIZER is tokenizer.ckpt, a pickled module or a state dict.
    """
    from im2sp.train.convert.vit_vqgan import convert_vit_vqgan

    with new_folder(out) as staging:
        model = convert_vit_vqgan(tokenizer, codebook)
        model.save(staging)
    sizes = model.config
    click.echo(f"{out}: {sizes.grid} x {sizes.grid} units of {sizes.codebook_size} a photo, {sizes.bits} bits")


@convert.command()
@click.argument("checkpoint", type=FILE)
@out_option
def seit(checkpoint: Path, out: Path) -> None:
    """Convert a SeiT token ViT to an image encoder that reads image units.

    CHECKPOINT is a file with a "model".
    """
    from im2sp.train.convert.seit import convert_seit

    with new_folder(out) as staging:
        model = convert_seit(checkpoint)
        model.save(staging)
    sizes = model.config
    click.echo(f"{out}: {sizes.crop} x {sizes.crop} units become {sizes.image_tokens} image tokens of {sizes.width}")


@convert.command()
@click.argument("checkpoint", type=FILE)
@click.option("--vocoder", type=FILE, required=True, help="Published unit HiFi-GAN with config.json, or a folder.")
@click.option("--speech-encoder", type=FILE, help="Published folder of HuBERT; needs --clusters.")
@click.option("--clusters", type=FILE, help="k-means file of HuBERT.")
@click.option("--config", type=FILE, help="config.json of its GIT, if that is not git-large-coco.")
@click.option("--codebook", type=FILE, help="codebook.ckpt of the image tokenizer, if CHECKPOINT reads image units.")
@click.option("--image-tokenizer", type=FILE, help="tokenizer.ckpt, if CHECKPOINT reads image units and has none.")
@click.option("--speaker", default=0, show_default=True, help="Voice, if the vocoder has several.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp16",
    show_default=True,
    help="Of the weights. Only fp32 gives exactly the published image units; fp16 gives 99.4 to 99.9 % of them.",
)
@click.option("--remove-repeats", is_flag=True, help="Speak repeated units once; fairseq speaks each.")
@out_option
def im2sp(
    checkpoint: Path,
    vocoder: Path,
    speech_encoder: Path | None,
    clusters: Path | None,
    config: Path | None,
    codebook: Path | None,
    image_tokenizer: Path | None,
    speaker: int,
    precision: str,
    remove_repeats: bool,
    out: Path,
) -> None:
    """Convert Im2Sp and a vocoder to a bundle that im2sp runs.

    CHECKPOINT is a file with a "state_dict". A folder as --vocoder is what `im2sp convert hifigan` or a voice recipe
    wrote. The bundle decodes as the paper's code does: greedily, up to 511 tokens.
    """
    from im2sp.bundle import SPECIAL_TOKENS, VocabularyConfig
    from im2sp.train.convert.im2sp import convert_im2sp
    from im2sp.train.export import BundleOptions, BundleParts, export_bundle

    if (speech_encoder is None) != (clusters is None):
        raise click.UsageError("--speech-encoder and --clusters belong together: give both")
    options = BundleOptions(
        name=out.name,
        version="1",
        description="Describes photos aloud with converted weights of an Im2Sp and a unit HiFi-GAN",
        license="that of the published checkpoints",
        limitations=("What it gets wrong stands where its checkpoints were published.",),
        precision=precision,
        beam=1,
        max_tokens=511,  # theirs are 512 with BOS
        max_repeats=0,
        early_stopping=True,
        speaker=speaker,
    )
    with new_folder(out) as staging:
        image, decoder = convert_im2sp(checkpoint, config, codebook, image_tokenizer, out.name)
        units = decoder.config.vocabulary_size - SPECIAL_TOKENS
        subwords = [[unit] for unit in range(units)]
        vocabulary = VocabularyConfig(units=units, subwords=subwords, keep_repeats=not remove_repeats)
        parts = BundleParts(image, decoder, vocabulary, _read_voice(vocoder, speech_encoder, clusters))
        export_bundle(parts, options, {"origin": "published checkpoints, converted and not trained on"}, staging)
    kind = "a bundle with image units" if image.units else "a bundle"
    click.echo(f"{out}: {kind}; try im2sp caption PHOTO -o OUT --model {out}")


def _read_voice(vocoder: Path, speech_encoder: Path | None, clusters: Path | None) -> TrainedVoice:
    from im2sp.train.convert.hifigan import convert_hifigan
    from im2sp.train.convert.hubert import convert_hubert
    from im2sp.train.export import TrainedVoice

    encoder = convert_hubert(speech_encoder, clusters) if speech_encoder and clusters else None
    if vocoder.is_dir():
        return replace(TrainedVoice.load(vocoder, None), speech_encoder=encoder)
    return TrainedVoice(convert_hifigan(vocoder.parent / "config.json", vocoder), None, encoder)
