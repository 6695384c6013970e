"""`im2sp-lab convert`: one command for each kind of published checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Published checkpoints -> models of im2sp. No code in them is ever run.")

Out = Annotated[Path, typer.Option("--out", "-o", help="new folder for the result")]


@app.command(help="HuBERT (transformers layout) and its k-means file -> a speech encoder: speech to units")
def hubert(
    folder: Annotated[Path, typer.Argument(help="folder of config.json and model.safetensors or pytorch_model.bin")],
    clusters: Annotated[Path, typer.Option(help="k-means: scikit-learn or joblib pickle, .npy, .safetensors or .pt")],
    out: Out,
    layer: Annotated[int, typer.Option(help="transformer layer whose output was clustered")] = 6,
) -> None:
    """Convert a HuBERT."""
    from im2sp.lab.convert.folders import new_folder
    from im2sp.lab.convert.hubert import convert_hubert

    with new_folder(out) as staging:
        encoder = convert_hubert(folder, clusters, layer)
        encoder.save(staging)
    print(f"{out}: {encoder.units} units from layer {layer}")


@app.command(help="unit HiFi-GAN with duration predictor -> a vocoder: units to speech")
def hifigan(
    checkpoint: Annotated[Path, typer.Argument(help='checkpoint with a "generator"')],
    config: Annotated[Path, typer.Option(help="config.json that belongs to it")],
    out: Out,
) -> None:
    """Convert a unit HiFi-GAN."""
    from im2sp.lab.convert.folders import new_folder
    from im2sp.lab.convert.hifigan import convert_hifigan

    with new_folder(out) as staging:
        model = convert_hifigan(config, checkpoint)
        model.save(staging)
    print(f"{out}: {model.config.units} units, {max(1, model.config.speakers)} voices")
