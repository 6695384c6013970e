"""`im2sp-lab convert`: one command for each kind of published checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from im2sp.errors import Im2SpError, reason

M = TypeVar("M")

app = typer.Typer(no_args_is_help=True, help="Published checkpoints -> models of im2sp. No code in them is ever run.")

Out = Annotated[Path, typer.Option("--out", "-o", help="new folder for the result")]


def _load(load: Callable[[Path], M], folder: Path, command: str) -> M:
    """A model that one of these commands wrote."""
    try:
        return load(folder)
    except Exception as error:  # torch, transformers, safetensors and json have no exception in common
        raise Im2SpError(
            f"{folder} holds no model that im2sp can load ({reason(error)[:200]}): give what "
            f"`im2sp-lab convert {command}` wrote"
        ) from error


@app.command(help="HuBERT (transformers layout) and its k-means file -> a speech encoder: speech to units")
def hubert(
    folder: Annotated[Path, typer.Argument(help="folder of config.json and model.safetensors or pytorch_model.bin")],
    clusters: Annotated[Path, typer.Option(help="k-means: scikit-learn or joblib pickle, .npy, .safetensors or .pt")],
    out: Out,
    layer: Annotated[int, typer.Option(help="transformer layer whose output was clustered")] = 6,
) -> None:
    """Convert a HuBERT."""
    from im2sp.train.convert.folders import new_folder
    from im2sp.train.convert.hubert import convert_hubert

    with new_folder(out) as staging:
        encoder = convert_hubert(folder, clusters, layer)
        encoder.save(staging)
    print(f"{out}: {encoder.units} units from layer {layer}")


@app.command(help="GIT (transformers layout) -> its image encoder, and a translator to start training from")
def git(
    folder: Annotated[Path, typer.Argument(help="folder of config.json and model.safetensors or pytorch_model.bin")],
    out: Out,
) -> None:
    """Convert a GIT."""
    from im2sp.train.convert.folders import new_folder
    from im2sp.train.convert.git import convert_git

    with new_folder(out) as staging:
        model = convert_git(folder)
        model.save(staging)
    print(f"{out}: {model.vision.config.image_tokens} image tokens, {model.translator.config.vocabulary_size} tokens")


@app.command(help="Im2Sp, a vocoder and perhaps a speech encoder -> a bundle that im2sp runs")
def im2sp(
    checkpoint: Annotated[Path, typer.Argument(help='checkpoint with a "state_dict"')],
    vocoder: Annotated[Path, typer.Option(help="what `convert hifigan` wrote")],
    out: Out,
    speech_encoder: Annotated[Path | None, typer.Option(help="what `convert hubert` wrote")] = None,
    config: Annotated[Path | None, typer.Option(help="config.json of its GIT, where it is not git-large-coco")] = None,
    codebook: Annotated[
        Path | None, typer.Option(help="codebook.ckpt, where the checkpoint has an image tokenizer")
    ] = None,
    image_tokenizer: Annotated[
        Path | None, typer.Option(help="what `convert vit-vqgan` wrote, where it reads image units and has none")
    ] = None,
    speaker: Annotated[int, typer.Option(help="voice, where the vocoder has several")] = 0,
    precision: Annotated[
        str,
        typer.Option(help="of weights: fp32; fp16; int8, which also computes in int8; or mixed, which does not"),
    ] = "fp16",
) -> None:
    """Convert an Im2Sp to a bundle."""
    from im2sp.train.convert.bundles import write_bundle
    from im2sp.train.convert.folders import new_folder
    from im2sp.train.convert.im2sp import ImageUnitGit, convert_im2sp
    from im2sp.train.models.speech_encoder import SpeechEncoder
    from im2sp.train.models.unit_hifigan import UnitHifigan
    from im2sp.train.models.vit_vqgan import VitVqgan

    if precision not in ("fp32", "fp16", "int8", "mixed"):
        raise typer.BadParameter("--precision is fp32, fp16, int8 or mixed")
    if codebook and image_tokenizer:
        raise typer.BadParameter("--codebook and --image-tokenizer name an image tokenizer each: give one of them")
    with new_folder(out) as staging:
        voice = _load(UnitHifigan.load, vocoder, "hifigan")
        encoder = _load(SpeechEncoder.load, speech_encoder, "hubert") if speech_encoder else None
        model = convert_im2sp(checkpoint, config, codebook)
        if image_tokenizer:
            if not isinstance(model, ImageUnitGit):
                raise Im2SpError(f"{checkpoint} looks at raw images: leave --image-tokenizer out")
            tokenizer = _load(VitVqgan.load, image_tokenizer, "vit-vqgan")
            model = model.with_tokenizer(tokenizer, image_tokenizer)
        bundle = write_bundle(model, voice, encoder, staging, out.name, precision, speaker)
    if bundle.config.image_units:
        print(f"{out}: a bundle with image units; try im2sp tokenize PHOTO -o units.parquet --model {out}")
    print(f"{out}: a bundle; try im2sp caption PHOTO -o OUT --model {out}")


@app.command(help="unit HiFi-GAN with duration predictor -> a vocoder: units to speech")
def hifigan(
    checkpoint: Annotated[Path, typer.Argument(help='checkpoint with a "generator"')],
    config: Annotated[Path, typer.Option(help="config.json that belongs to it")],
    out: Out,
) -> None:
    """Convert a unit HiFi-GAN."""
    from im2sp.train.convert.folders import new_folder
    from im2sp.train.convert.hifigan import convert_hifigan

    with new_folder(out) as staging:
        model = convert_hifigan(config, checkpoint)
        model.save(staging)
    print(f"{out}: {model.config.units} units, {max(1, model.config.speakers)} voices")


@app.command(name="vit-vqgan", help="ViT-VQGAN tokenizer and its codebook -> an image tokenizer: photos to image units")
def vit_vqgan(
    tokenizer: Annotated[Path, typer.Argument(help="tokenizer.ckpt: a pickled module or a state dict")],
    codebook: Annotated[Path, typer.Option(help="codebook.ckpt: a tensor of one row a unit")],
    out: Out,
) -> None:
    """Convert a ViT-VQGAN."""
    from im2sp.train.convert.folders import new_folder
    from im2sp.train.convert.vit_vqgan import convert_vit_vqgan

    with new_folder(out) as staging:
        model = convert_vit_vqgan(tokenizer, codebook)
        model.save(staging)
    sizes = model.config
    print(f"{out}: {sizes.grid} x {sizes.grid} units of {sizes.codebook_size} a photo, {sizes.bits} bits")


@app.command(help="SeiT token ViT -> an image encoder that reads image units")
def seit(
    checkpoint: Annotated[Path, typer.Argument(help='checkpoint with a "model"')],
    out: Out,
) -> None:
    """Convert a SeiT."""
    from im2sp.train.convert.folders import new_folder
    from im2sp.train.convert.seit import convert_seit

    with new_folder(out) as staging:
        model = convert_seit(checkpoint)
        model.save(staging)
    sizes = model.config
    print(f"{out}: {sizes.crop} x {sizes.crop} units become {sizes.image_tokens} image tokens of width {sizes.width}")


@app.command(name="im2sp-units", help="Im2Sp of image units -> its token ViT, translator and image tokenizer, to train")
def im2sp_units(
    checkpoint: Annotated[Path, typer.Argument(help='checkpoint with a "state_dict"')],
    out: Out,
    codebook: Annotated[Path | None, typer.Option(help="codebook.ckpt, where the image tokenizer is wanted")] = None,
    config: Annotated[Path | None, typer.Option(help="config.json of its GIT, where it is not git-large-coco")] = None,
) -> None:
    """Convert an Im2Sp of image units to models of the lab."""
    from im2sp.train.convert.folders import new_folder
    from im2sp.train.convert.im2sp import ImageUnitGit, convert_im2sp

    with new_folder(out) as staging:
        model = convert_im2sp(checkpoint, config, codebook)
        if not isinstance(model, ImageUnitGit):
            raise Im2SpError(f"{checkpoint} has no token ViT: use `im2sp-lab convert im2sp` for one of raw images")
        model.save(staging)
    tokenizer = "with" if model.tokenizer else "without"
    print(f"{out}: {model.token_vit.config.image_tokens} image tokens, {tokenizer} an image tokenizer")
