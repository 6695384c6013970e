"""Files that do not fit, and malicious files, in the place of every file that `im2sp convert` reads."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from im2sp.errors import Im2SpError
from tests.train.convert.hostile_files import WRITERS, touching
from tests.train.convert.published_files import VISION, run_convert, write_published_files
from tests.train.convert.published_image_models import token_vit, vit_vqgan

COMMANDS = {  # what is converted: how
    "hubert": "hubert HUBERT --clusters km.bin --layer 1",
    "hifigan": "hifigan g_00500000 --config config.json",
    "git": "git GIT",
    "vit-vqgan": "vit-vqgan tokenizer.ckpt --codebook codebook.ckpt",
    "seit": "seit SEIT",
    "raw": "im2sp raw.ckpt --config GIT/config.json --vocoder g_00500000",
    "units": "im2sp units.ckpt --config GIT/config.json --codebook codebook.ckpt --vocoder g_00500000",
}
WEIGHTS = {  # where its tensors are: file and key in it
    "hubert": ("HUBERT/pytorch_model.bin", ""), "hifigan": ("g_00500000", "generator"),
    "git": ("GIT/pytorch_model.bin", ""), "vit-vqgan": ("tokenizer.ckpt", ""), "seit": ("SEIT", "model"),
    "raw": ("raw.ckpt", "state_dict"), "units": ("units.ckpt", "state_dict"),
}  # fmt: skip
EMBEDDINGS = "model.git.embeddings.word_embeddings.weight"
PREPROCESSOR = "GIT/preprocessor_config.json"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_published_files(folder, layers=2)
    (folder / PREPROCESSOR).write_text('{"size": 224}')
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the published files, which is the working directory."""
    monkeypatch.chdir(shutil.copytree(published, tmp_path / "files"))
    return tmp_path


def refuse(command: str, why: str, folder: Path) -> None:
    """Run a command: one sentence says why not, and nothing is written."""
    error = run_convert(*COMMANDS[command].split(), "-o", folder / "out").exception
    assert isinstance(error, Im2SpError)
    assert re.search(why, str(error)), error
    assert [path.name for path in folder.iterdir()] == ["files"]


@pytest.mark.parametrize(
    ("command", "file", "change", "why"),
    [
        ("git", "GIT/config.json", {"model_type": "blip"}, "model_type"),
        ("git", "GIT/config.json", {"num_image_with_embedding": 6}, "num_image_with_embedding"),
        ("git", "GIT/config.json", {"hidden_act": "relu"}, "hidden_act"),
        ("git", "GIT/config.json", {"num_hidden_layers": 4}, r"lacks layers\.3"),
        ("git", "GIT/config.json", {"vocab_size": 300}, r"has word_embeddings\.weight of shape|has output"),
        ("git", "GIT/config.json", {"num_attention_heads": 5}, "divided by the heads"),
        ("git", "GIT/config.json", {"vision_config": {"image_size": 10**9}}, r"vision_config\.image_size"),
        ("git", PREPROCESSOR, {"crop_size": 200}, r"preprocessor_config\.json makes pictures"),
        ("git", PREPROCESSOR, {"size": {"shortest_edge": 40}, "crop_size": 48}, r"preprocessor_config\.json makes"),
        ("git", PREPROCESSOR, {"do_center_crop": False}, r"preprocessor_config\.json makes"),
        ("git", PREPROCESSOR, {"resample": 9}, r"preprocessor_config\.json does not fit"),
        ("git", PREPROCESSOR, {"rescale_factor": 0.5}, r"preprocessor_config\.json does not fit \(rescale_factor"),
        ("hubert", "HUBERT/config.json", {"model_type": "wav2vec2"}, "model_type"),
        ("hubert", "HUBERT/config.json", {"do_stable_layer_norm": True}, "normalised waveforms"),
        ("hubert", "HUBERT/config.json", {"conv_stride": [5, 2, 2, 2, 2, 2, 4]}, "320 samples apart"),
        ("hubert", "HUBERT/config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("hubert", "HUBERT/config.json", {"num_hidden_layers": 3}, r"lacks encoder\.layers\.2\.\S+ \(1 of 16\)"),
        ("hubert", "HUBERT/config.json", {"num_hidden_layers": 1}, r"unknown 'encoder\.layers\.1\.\S+ \(1 of 16\)"),
        ("hubert", "HUBERT/config.json", {"intermediate_size": 64}, "of shape"),
        ("hubert", "HUBERT/config.json", {"hidden_size": 65_536}, "features of 65536"),
        ("hifigan", "config.json", {"sampling_rate": 22050}, "sampling_rate"),
        ("hifigan", "config.json", {"upsample_rates": [5, 4, 4, 2, 1]}, "product of upsample_rates"),
        ("hifigan", "config.json", {"upsample_kernel_sizes": [10, 8, 8, 4, 4]}, "a whole number of samples"),
        ("hifigan", "config.json", {"upsample_kernel_sizes": [11, 8, 8, 4]}, "sizes for .* do not fit together"),
        ("hifigan", "config.json", {"f0": True}, "pitch beside the units"),
        ("hifigan", "config.json", {"multispkr": "_"}, r"lacks spkr\.weight"),
        ("hifigan", "config.json", {"num_embeddings": 21}, r"has dict\.weight of shape \[200, 8\] where .* \[21, 8\]"),
        ("hifigan", "config.json", {"resblock_dilation_sizes": [[1, 3], [1, 3], [1, 3]]}, "unknown"),
        ("hifigan", "config.json", {"upsample_initial_channel": 2**30}, "upsample_initial_channel"),
        ("hifigan", "config.json", {"dur_predictor_params": None}, "dur_predictor_params"),
    ],
)
def test_configs_that_do_not_fit_are_refused(
    command: str, file: str, change: dict[str, Any], why: str, folder: Path
) -> None:
    path = folder / "files" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refuse(command, why, folder)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("command", "changes", "why"),
    [
        ("git", {"output.weight": zeros(203, 24)}, "not tied"),
        ("hifigan", {"conv_pre.weight_g": zeros(3, 1, 1)}, r"no conv_pre\.weight_g that fits"),
        ("hifigan", {"conv_pre.weight_v": None}, r"lacks conv_pre\.weight"),
        ("hifigan", {"conv_pre.weight_v": zeros(32, 8, 7)}, r"not numbers in conv_pre\.weight"),
        ("hifigan", {"conv_pre.bias": "text"}, "has str at 'conv_pre.bias' where a tensor should be"),
        ("hifigan", {"f0_quantizer.weight": zeros(2)}, "unknown 'f0_quantizer.weight'"),
        ("seit", {"patch_embed.proj.weight": zeros(128, 8, 3, 3)}, "kernel 3"),
        ("seit", {"pos_embed": zeros(1, 4, 128)}, "3 places"),
        ("seit", {"blocks.1.attn.qkv.bias": None}, r"lacks blocks\.1\.attn\.qkv\.bias"),
        ("seit", {"fc_norm.weight": zeros(128)}, "unknown 'fc_norm"),
        ("vit-vqgan", {"encoder.to_patch_embedding.0.weight": None}, r"lacks a whole encoder\.to_patch_embedding"),
        ("vit-vqgan", {"encoder.en_pos_embedding": zeros(1, 35, 128)}, "35 positions"),
        ("vit-vqgan", {"encoder.transformer.layers.1.0.norm.bias": None}, r"lacks encoder\.\S+\.1\.norm1\.bias"),
        ("vit-vqgan", {"encoder.transformer.layers.7.0.norm.bias": zeros(128)}, "no row of at most 128 blocks"),
        ("vit-vqgan", {"encoder.surprise.weight": zeros(16)}, r"unknown 'encoder\.surprise\.weight'"),
        ("vit-vqgan", {"pre_quant.weight": zeros(9, 128)}, r"pre_quant\.weight of shape \[9, 128\]"),
        ("vit-vqgan", {"pre_quant.bias": torch.full((8,), torch.nan)}, r"not numbers in pre_quant\.bias"),
        ("raw", {EMBEDDINGS: None}, "0 tokens, too few"),
        ("raw", {EMBEDDINGS: zeros(50, 24)}, "50 tokens, too few"),
        ("raw", {EMBEDDINGS: zeros(203, 24)}, "not tied"),
        ("raw", {"model.output.bias": None}, r"lacks output\.bias"),
        ("raw", {"model.output.bias": zeros(30)}, r"output\.bias of shape \[30\]"),
        ("units", {f"{VISION}cls_token": None}, "lacks cls_token"),
        ("units", {"model.git.visual_projection.visual_projection.0.weight": zeros(24, 64)}, r"of shape \[24, 64\]"),
        ("units", {f"{VISION}embeddings.class_embedding": zeros(4)}, "unknown 'embeddings"),
        ("units", {"model.extra": zeros(4)}, "unknown 'extra'"),
        ("units", {"tokenizer.pre_quant.bias": None}, r"lacks pre_quant\.bias"),
        ("units", {f"tokenizer.{name}": None for name in vit_vqgan().published()}, "has no image tokenizer: give --"),
        (
            "units",
            {f"tokenizer.{part}coder.{part}_pos_embedding": zeros(1, 9, 128) for part in ("en", "de")},
            "3 x 3 units of 8 numbers for a token ViT of 4 x 4",
        ),
        (
            "units",
            {f"{VISION}{name}": None for name in token_vit().published() if name.startswith("blocks.")},
            "looks at raw images: leave codebook",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(command: str, changes: dict[str, Any], why: str, folder: Path) -> None:
    file, inside = WEIGHTS[command]
    path = folder / "files" / file
    whole = torch.load(path)
    state = whole[inside] if inside else whole
    state.update(changes)
    for name in [name for name, tensor in changes.items() if tensor is None]:
        del state[name]
    torch.save(whole, path)
    refuse(command, why, folder)


@pytest.mark.parametrize(
    ("command", "file"), [*((command, file) for command, (file, _) in WEIGHTS.items()), ("hubert", "km.bin"),
                          ("vit-vqgan", "codebook.ckpt"), ("units", "codebook.ckpt"), ("raw", "g_00500000")]
)  # fmt: skip
def test_an_attack_in_any_file_is_refused(command: str, file: str, folder: Path) -> None:
    canary = folder / "canary"
    for write in WRITERS.values():
        write({"state_dict": {}, "model": {}, "generator": touching(canary)}, folder / "files" / file)
        refuse(command, rf"{file.rpartition('/')[2]} asks to run", folder)
