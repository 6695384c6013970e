"""One small file of every published kind, in its published layout, and the command that converts them."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import torch
from click.testing import CliRunner, Result
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from transformers import GitForCausalLM, HubertConfig, HubertModel

from im2sp.train.convert.commands import convert
from tests.train.convert.published_git import random_git
from tests.train.convert.published_hifigan import CONFIG, Reference, write_published
from tests.train.convert.published_image_models import token_vit, vit_vqgan

UNITS = 200
WIDTH = 16  # of HuBERT
VISION = "model.git.image_encoder.vision_model."
VOICE = CONFIG | {"num_embeddings": UNITS, "upsample_initial_channel": 32}


def run_convert(*words: object) -> Result:
    """Run `im2sp convert`; exceptions are in the result as they were raised."""
    return CliRunner().invoke(convert, [str(word) for word in words])


def write_published_files(folder: Path, layers: int = 1) -> None:
    """Write GIT/, HUBERT/ (of so many layers), km.bin, g_00500000 and config.json of a unit HiFi-GAN, tokenizer.ckpt,
    codebook.ckpt, SEIT, and Im2Sp of raw images and of image units, raw.ckpt and units.ckpt."""
    torch.manual_seed(0)
    hubert = HubertConfig(
        hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    git = random_git(1, tied=True)
    for name, model in (("HUBERT", HubertModel(hubert)), ("GIT", git)):
        model.save_pretrained(folder / name)
        (folder / name / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / name / "pytorch_model.bin")
    points = np.random.default_rng(0).normal(size=(UNITS, WIDTH)).astype(np.float32)
    joblib.dump(MiniBatchKMeans(UNITS, init=points, n_init=1, max_iter=1).fit(points), folder / "km.bin")
    write_published(folder, VOICE, Reference(VOICE).state())
    torch.save(vit_vqgan().published(), folder / "tokenizer.ckpt")
    torch.save(vit_vqgan().codes, folder / "codebook.ckpt")
    torch.save({"model": token_vit().published(), "optimizer": {"lr": 0.1}, "epoch": 3}, folder / "SEIT")
    save_im2sp(of_raw_images(git), folder / "raw.ckpt")
    save_im2sp(of_image_units(random_git(1, tied=True, sees_units=True)), folder / "units.ckpt")


def save_im2sp(state: dict[str, Tensor | None], path: Path) -> Path:
    """The training framework's file of the paper's code."""
    whole = {name: tensor for name, tensor in state.items() if tensor is not None}
    torch.save({"epoch": 3, "global_step": 100_000, "state_dict": whole}, path)
    return path


def of_raw_images(git: GitForCausalLM) -> dict[str, Tensor | None]:
    """State dict of an Im2Sp, as its training framework names it."""
    return {f"model.{name}": tensor for name, tensor in git.state_dict().items()}


def of_image_units(git: GitForCausalLM) -> dict[str, Tensor | None]:
    """State dict of an Im2Sp with a token ViT and an image tokenizer."""
    state = of_raw_images(git) | {VISION + name: tensor for name, tensor in token_vit().published().items()}
    return state | {f"tokenizer.{name}": part for name, part in vit_vqgan().published().items()}
