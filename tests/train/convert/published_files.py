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
from tests.train.convert.published_hifigan import CONFIG, audible, published_state, write_published
from tests.train.models import published_token_vit, published_vit_vqgan

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
    write_published(folder, VOICE, audible(published_state(VOICE)))
    torch.save(published_vit_vqgan.published_state(), folder / "tokenizer.ckpt")
    torch.save(published_vit_vqgan.published_codebook(), folder / "codebook.ckpt")
    torch.save({"model": published_token_vit.published_state()}, folder / "SEIT")
    for name, state in (("raw", of_raw_images(git)), ("units", of_image_units(git))):
        torch.save({"epoch": 3, "global_step": 100_000, "state_dict": state}, folder / f"{name}.ckpt")


def of_raw_images(git: GitForCausalLM) -> dict[str, Tensor]:
    """State dict of an Im2Sp, as its training framework names it."""
    return {f"model.{name}": tensor for name, tensor in git.state_dict().items()}


def of_image_units(git: GitForCausalLM) -> dict[str, Tensor]:
    """State dict of an Im2Sp with a token ViT and an image tokenizer."""
    state = {name: tensor for name, tensor in of_raw_images(git).items() if not name.startswith(VISION)}
    state |= {VISION + name: tensor for name, tensor in published_token_vit.published_state().items()}
    state["model.git.visual_projection.visual_projection.0.weight"] = torch.randn(24, 128)
    return state | {f"tokenizer.{name}": part for name, part in published_vit_vqgan.published_state().items()}
