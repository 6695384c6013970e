"""A small ViT-VQGAN and SeiT in their published layouts, made of transformers' ViT layers with random weights."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel
from transformers.modeling_outputs import BaseModelOutput

from im2sp.train.convert.published import renamed
from im2sp.train.models.token_vit import TokenVitConfig
from im2sp.train.models.vit_vqgan import VitVqganConfig

State = dict[str, Tensor]

WIDTH, HEADS = 128, 2  # of both
VIT_VQGAN = VitVqganConfig(
    image_size=24, patch=4, width=WIDTH, layers=2, heads=HEADS, feed_forward=24, code_width=8, codebook_size=50,
    decoder_layers=1,
)  # fmt: skip
TOKEN_VIT = TokenVitConfig(code_width=8, crop=4, width=WIDTH, layers=2, heads=HEADS, feed_forward=32)
OF_VIT_VQGAN = {
    "layernorm_before": "0.norm", "attention.qkv": "0.fn.to_qkv", "attention.o_proj": "0.fn.to_out",
    "layernorm_after": "1.norm", "mlp.fc1": "1.fn.net.0", "mlp.fc2": "1.fn.net.2",
}  # fmt: skip
OF_SEIT = {
    "layernorm_before": "norm1", "attention.qkv": "attn.qkv", "attention.o_proj": "attn.proj",
    "layernorm_after": "norm2",
}  # fmt: skip


class Layers(nn.Module):
    """Pre-norm layers of transformers."""

    def __init__(self, count: int, hidden: int, **options: object) -> None:
        super().__init__()
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": count, "num_attention_heads": HEADS}
        vit = ViTModel(ViTConfig(**sizes, intermediate_size=hidden, **options), add_pooling_layer=False)
        self.layers, self.norm = vit.layers, vit.layernorm

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Reference(nn.Module):
    """A published model in float64."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)

    def randomise(self) -> None:
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 1:
                    parameter.normal_(std=0.3).add_(0.0 if name.endswith("bias") else 1.0)
                else:
                    parameter.normal_(std=1.2 / math.sqrt(parameter[0].numel()))
        self.double().eval().requires_grad_(False)

    def state(self, names: dict[str, str]) -> State:
        """Weights under the published names, queries, keys and values as one matrix."""
        found: dict[str, list[Tensor]] = {}
        for name, tensor in self.state_dict().items():
            for part in "qkv":
                name = name.replace(f".{part}_proj.", ".qkv.")
            found.setdefault(name, []).append(tensor.float())
        return renamed({name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in found.items()}, names)


class VitVqganReference(Reference):
    """ViT-VQGAN."""

    def __init__(self) -> None:
        super().__init__(0)
        side, options = VIT_VQGAN.patch, {"hidden_act": "tanh", "qkv_bias": False, "layer_norm_eps": 1e-5}
        self.patches, self.encoder = nn.Conv2d(3, WIDTH, side, side), Layers(2, VIT_VQGAN.feed_forward, **options)
        self.pre_quant, self.post_quant = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)
        self.decoder, self.pixels = (
            Layers(1, VIT_VQGAN.feed_forward, **options),
            nn.ConvTranspose2d(WIDTH, 3, side, side),
        )
        self.randomise()
        self.patches.weight.mul_(8)  # so that units differ
        self.pixels.weight.mul_(0.1)
        self.pixels.bias.fill_(0.5)
        self.pre_quant.bias.sub_(self.encode(torch.rand(9, 3, 24, 24)).mean((0, 1)))

    def encode(self, pixels: Tensor) -> Tensor:
        patches = self.patches(pixels.double()).flatten(2).transpose(1, 2)
        found: Tensor = self.pre_quant(self.encoder.norm(self.encoder(patches + sine_cosine(VIT_VQGAN.grid))))
        return found


class TokenVitReference(Reference):
    """SeiT, with norm and head on top."""

    def __init__(self) -> None:
        super().__init__(4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, TOKEN_VIT.image_tokens, WIDTH))
        self.stem = nn.Conv2d(TOKEN_VIT.code_width, WIDTH, 4, 2, 1)
        self.blocks = Layers(TOKEN_VIT.layers, TOKEN_VIT.feed_forward, qkv_bias=True, layer_norm_eps=1e-6)
        self.head = nn.Linear(WIDTH, 7)
        self.randomise()


vit_vqgan = lru_cache(VitVqganReference)
token_vit = lru_cache(TokenVitReference)


def vit_vqgan_state() -> State:
    """tokenizer.ckpt."""
    names = {"patches.": "encoder.to_patch_embedding.0.", "pixels.": "decoder.to_pixel.1."}
    names |= {
        f"{part}.{kind}": f"{part}.transformer.{kind}" for part in ("encoder", "decoder") for kind in ("layers", "norm")
    }
    positions = sine_cosine(VIT_VQGAN.grid).float()
    state = vit_vqgan().state(names | {f".{theirs}.": f".{name}." for theirs, name in OF_VIT_VQGAN.items()})
    return state | {"encoder.en_pos_embedding": positions, "decoder.de_pos_embedding": positions.clone()}


@lru_cache
def codebook_rows() -> Tensor:
    """codebook.ckpt: rows of very different lengths, so that forgetting to normalise them shows."""
    random = torch.Generator().manual_seed(1)
    rows = torch.randn(VIT_VQGAN.codebook_size, VIT_VQGAN.code_width, generator=random)
    return rows * torch.rand(len(rows), 1, generator=random) * 5


def token_vit_state() -> State:
    """The "model" of a checkpoint of SeiT."""
    names = {"stem.": "patch_embed.proj.", "blocks.layers.": "blocks.", "blocks.norm.": "norm."}
    return token_vit().state(names | {f".{theirs}.": f".{name}." for theirs, name in OF_SEIT.items()})


def sine_cosine(grid: int) -> Tensor:
    """float64 [1, grid * grid, WIDTH], one number at a time."""
    found, quarter = np.zeros((1, grid * grid, WIDTH)), WIDTH // 4
    for row in range(grid):
        for column in range(grid):
            for half, place in enumerate((column, row)):
                for k in range(quarter):
                    angle = place / 10000 ** (k / quarter)
                    found[0, row * grid + column, half * 2 * quarter + k] = math.sin(angle)
                    found[0, row * grid + column, half * 2 * quarter + quarter + k] = math.cos(angle)
    return torch.from_numpy(found)


def before_codes(pixels: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] -> what is quantised, float64 [B, units, code_width]."""
    return vit_vqgan().encode(pixels)


def nearest(vectors: Tensor) -> npt.NDArray[np.int64]:
    """Units int64 [B, N] of vectors: the row of the codebook at the least distance, both of length 1."""
    rows = F.normalize(codebook_rows().double(), dim=-1)
    return torch.cdist(F.normalize(vectors, dim=-1), rows.expand(len(vectors), -1, -1)).argmin(-1).numpy()


def decoded(units: Tensor) -> Tensor:
    """Units [B, N] -> pixels float64 [B, 3, H, W] in [0, 1]."""
    model, grid = vit_vqgan(), VIT_VQGAN.grid
    x = model.post_quant(F.normalize(codebook_rows().double()[units], dim=-1)) + sine_cosine(grid)
    pixels: Tensor = model.pixels(model.decoder.norm(model.decoder(x)).transpose(1, 2).unflatten(2, (grid, grid)))
    return pixels.clamp(0, 1)


def features(vectors: Tensor) -> Tensor:
    """Codebook vectors [B, code_width, crop, crop] -> float64 [B, image_tokens, WIDTH], without the last norm."""
    model = token_vit()
    tokens = model.stem(vectors.double()).flatten(2).transpose(1, 2)
    found: Tensor = model.blocks(torch.cat([model.cls_token.expand(len(vectors), -1, -1), tokens], 1) + model.pos_embed)
    return found


class ReplacedEncoder(nn.Module):
    """What stands at `git.image_encoder` of the paper's code for image units."""

    def forward(self, vectors: Tensor, **_: object) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=features(vectors).float())
