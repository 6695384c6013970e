"""`im2sp convert`: one command for each kind of published checkpoint. No code in them is ever run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from im2sp.errors import Im2SpError, reason
from im2sp.files import new_folder

if TYPE_CHECKING:
    from im2sp.train.convert.git import Git
    from im2sp.train.convert.im2sp import ImageUnitGit
    from im2sp.train.export import BundleOptions, TrainedVoice
    from im2sp.train.model_card import Facts

M = TypeVar("M")

FILE = click.Path(path_type=Path)
PRECISIONS = ("fp32", "fp16", "int8", "mixed")
out_option = click.option("--out", "-o", type=FILE, required=True, help="New folder for the result.")
config_option = click.option("--config", type=FILE, help="config.json of its GIT, if that is not git-large-coco.")


@click.group(no_args_is_help=True)
def convert() -> None:
    """Convert published checkpoints to models of im2sp. No code in them is ever run."""


@convert.command()
@click.argument("folder", type=FILE)
@click.option(
    "--clusters", type=FILE, required=True, help="k-means: scikit-learn or joblib pickle, or an array in a file."
)
@click.option("--layer", default=6, show_default=True, help="Transformer layer whose output was clustered.")
@out_option
def hubert(folder: Path, clusters: Path, layer: int, out: Path) -> None:
    """Convert HuBERT and its k-means file to a speech encoder: speech to units.

    FOLDER has config.json and model.safetensors or pytorch_model.bin, as transformers writes them.
    """
    from im2sp.train.convert.hubert import convert_hubert

    with new_folder(out) as staging:
        encoder = convert_hubert(folder, clusters, layer)
        encoder.save(staging)
    click.echo(f"{out}: {encoder.units} units from layer {layer}")


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
    click.echo(f"{out}: {model.vision.config.image_tokens} image tokens, {model.decoder.config.vocabulary_size} tokens")


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
@click.option("--vocoder", type=FILE, help="Published unit HiFi-GAN, or what `convert hifigan` wrote.")
@click.option("--vocoder-config", type=FILE, help="Its config.json, where it is not beside it.")
@click.option("--speech-encoder", type=FILE, help="Folder of HuBERT with --clusters, or what `convert hubert` wrote.")
@click.option("--clusters", type=FILE, help="k-means file of HuBERT.")
@config_option
@click.option("--codebook", type=FILE, help="codebook.ckpt of the image tokenizer.")
@click.option(
    "--image-tokenizer",
    type=FILE,
    help="tokenizer.ckpt, or what `convert vit-vqgan` wrote, if CHECKPOINT reads image units and has none in it.",
)
@click.option("--speaker", default=0, show_default=True, help="Voice, if the vocoder has several.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp16",
    show_default=True,
    help="Of the weights. Only fp32 gives exactly the published image units; fp16 gives 99.5 to 99.9 % of them.",
)
@click.option("--keep-repeats", is_flag=True, help="Speak repeated units as fairseq's vocoder alone does.")
@out_option
def im2sp(
    checkpoint: Path,
    vocoder: Path | None,
    vocoder_config: Path | None,
    speech_encoder: Path | None,
    clusters: Path | None,
    config: Path | None,
    codebook: Path | None,
    image_tokenizer: Path | None,
    speaker: int,
    precision: str,
    keep_repeats: bool,
    out: Path,
) -> None:
    """Convert Im2Sp and a vocoder to a bundle that im2sp runs; without --vocoder, to models to train.

    CHECKPOINT is a file with a "state_dict". The bundle decodes as the paper's code does: greedily, up to 511 tokens.
    """
    from im2sp.train.convert.im2sp import ImageUnitGit
    from im2sp.train.export import BundleOptions

    with new_folder(out) as staging:
        model = _read_im2sp(checkpoint, config, codebook, image_tokenizer)
        if vocoder is None:
            model.save(staging)
            parts = ", ".join(sorted(path.name for path in staging.iterdir()))
        else:
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
            voice = _read_voice(vocoder, vocoder_config, speech_encoder, clusters)
            _write_bundle(model, voice, keep_repeats, staging, options)
    if vocoder is None:
        click.echo(f"{out}: {parts}")
        return
    if isinstance(model, ImageUnitGit):
        click.echo(f"{out}: a bundle with image units; try im2sp tokenize PHOTO -o units.parquet --model {out}")
    click.echo(f"{out}: a bundle; try im2sp caption PHOTO -o OUT --model {out}")


def _read_im2sp(
    checkpoint: Path, config: Path | None, codebook: Path | None, image_tokenizer: Path | None
) -> Git | ImageUnitGit:
    """Read an Im2Sp, with its image tokenizer where one is given."""
    from im2sp.train.convert.im2sp import ImageUnitGit, convert_im2sp
    from im2sp.train.convert.vit_vqgan import convert_vit_vqgan
    from im2sp.train.models.vit_vqgan import VitVqgan

    if image_tokenizer is None:
        return convert_im2sp(checkpoint, config, codebook)
    if image_tokenizer.is_dir() == (codebook is not None):
        raise click.UsageError("--codebook belongs to a published tokenizer.ckpt, and to that alone: give both files")
    model = convert_im2sp(checkpoint, config)
    if not isinstance(model, ImageUnitGit):
        raise Im2SpError(f"{checkpoint} looks at raw images: leave --image-tokenizer out")
    if codebook:
        tokenizer = convert_vit_vqgan(image_tokenizer, codebook)
    else:
        tokenizer = _load(VitVqgan.load, image_tokenizer, "vit-vqgan")
    return model.with_tokenizer(tokenizer, image_tokenizer)


def _read_voice(
    vocoder: Path, vocoder_config: Path | None, speech_encoder: Path | None, clusters: Path | None
) -> TrainedVoice:
    """Read a vocoder and a speech encoder, published or converted."""
    from im2sp.train.convert.hifigan import convert_hifigan
    from im2sp.train.convert.hubert import convert_hubert
    from im2sp.train.export import TrainedVoice
    from im2sp.train.models.speech_encoder import SpeechEncoder
    from im2sp.train.models.unit_hifigan import UnitHifigan

    if vocoder.is_dir():
        model = _load(UnitHifigan.load, vocoder, "hifigan")
    else:
        model = convert_hifigan(vocoder_config or vocoder.parent / "config.json", vocoder)
    if speech_encoder is None:
        return TrainedVoice(model, None, None)
    if clusters:
        return TrainedVoice(model, None, convert_hubert(speech_encoder, clusters))
    return TrainedVoice(model, None, _load(SpeechEncoder.load, speech_encoder, "hubert"))


def _write_bundle(
    model: Git | ImageUnitGit, voice: TrainedVoice, keep_repeats: bool, out: Path, options: BundleOptions
) -> None:
    from im2sp.bundle import SPECIAL_TOKENS, VocabularyConfig
    from im2sp.train.convert.im2sp import ImageUnitGit
    from im2sp.train.export import BundleParts, ImageModules, export_bundle
    from im2sp.train.image_encoders import vit_vqgan_modules

    if isinstance(model, ImageUnitGit):
        if model.tokenizer is None:
            raise Im2SpError(
                "this Im2Sp looks at image units, and a bundle needs what makes them: give --codebook where the "
                "checkpoint has the image tokenizer, or --image-tokenizer as well"
            )
        image = vit_vqgan_modules(model.tokenizer, model.token_vit, f"{options.name}-vit-vqgan")
    else:
        image = ImageModules(model.image, model.vision)
    units = model.decoder.config.vocabulary_size - SPECIAL_TOKENS
    vocabulary = VocabularyConfig(units=units, subwords=[[unit] for unit in range(units)], keep_repeats=keep_repeats)
    training: Facts = {"origin": "published checkpoints, converted and not trained on"}
    export_bundle(BundleParts(image, model.decoder, vocabulary, voice), options, training, out)


def _load(load: Callable[[Path], M], folder: Path, command: str) -> M:
    """Load a model that one of these commands wrote."""
    try:
        return load(folder)
    except Exception as error:  # torch, transformers, safetensors and json have no exception in common
        raise Im2SpError(
            f"{folder} holds no model that im2sp can load ({reason(error)[:200]}): give what "
            f"`im2sp convert {command}` wrote"
        ) from error
