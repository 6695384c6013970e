"""Published GIT (transformers layout) -> its image encoder and our decoder (docs/reference-formats.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from transformers import GitVisionConfig, GitVisionModel

from im2sp.bundle import ImageConfig, Resampling
from im2sp.train.convert.checkpoints import StateDict, read_state_dict, weights_file
from im2sp.train.convert.published import (
    Epsilon,
    Layers,
    PublishedConfig,
    PublishedTransformer,
    Size,
    read_config,
    renamed,
    with_weights,
)
from im2sp.train.convert.unpickling import CheckpointError
from im2sp.train.export import ImageModules
from im2sp.train.image_encoders import require_converted
from im2sp.train.models.git import GitDecoder, GitDecoderConfig

VISION = "git.image_encoder."
POSITIONS = ("git.embeddings.position_ids", "git.image_encoder.vision_model.embeddings.position_ids")  # 0, 1, 2, ...

DECODER_NAMES = {  # parts of the names of a GitForCausalLM: those of our decoder
    "git.visual_projection.visual_projection.0.": "image_projection.",
    "git.visual_projection.visual_projection.1.": "image_norm.",
    "git.embeddings.LayerNorm.": "embedding_norm.",
    "git.embeddings.": "",
    "git.encoder.layer.": "layers.",
    ".attention.self.": ".",
    ".attention.output.dense.": ".attention_output.",
    ".attention.output.LayerNorm.": ".attention_norm.",
    ".intermediate.dense.": ".intermediate.",
    ".output.dense.": ".output.",
    ".output.LayerNorm.": ".output_norm.",
}

PROCESSOR = "preprocessor_config.json"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Pixels = Annotated[int, Field(ge=1, le=4_096)]
Deviation = Annotated[float, Field(gt=0)]


class PublishedVision(PublishedTransformer):
    """The image encoder of a GIT, a CLIP vision transformer. Defaults: those of transformers."""

    image_size: Pixels = 224
    patch_size: Pixels = 16
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size

    @property
    def image_tokens(self) -> int:
        """One for each patch, and the class token before them."""
        return self.grid**2 + 1


class PublishedGit(PublishedTransformer):
    """The fields of a GIT's config.json that are read. Defaults: the base model, as in transformers."""

    model_type: Literal["git"] = "git"
    vision_config: PublishedVision = PublishedVision()
    vocab_size: Size = 30_522
    num_hidden_layers: Layers = 6
    hidden_act: Literal["gelu"] = "gelu"
    max_position_embeddings: Size = 1024
    layer_norm_eps: Epsilon = 1e-12
    tie_word_embeddings: bool = False
    num_image_with_embedding: None = None  # a number for models of videos


class PublishedProcessor(PublishedConfig):
    """The fields of a GIT's preprocessor_config.json that are read. Defaults: those of every published GIT."""

    size: dict[str, Pixels | None] | Pixels | None = None  # shortest_edge, or height and width; a number is the first
    crop_size: dict[str, Pixels | None] | Pixels | None = None
    do_resize: Literal[True] = True
    do_center_crop: bool = True
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True
    rescale_factor: Annotated[float, Field(gt=1 / 256, lt=1 / 254)] = 1 / 255
    resample: Image.Resampling = Image.Resampling.BICUBIC
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[Deviation, Deviation, Deviation] = CLIP_STD

    def image_config(self, vision: PublishedVision) -> ImageConfig:
        """Preprocessing and grid of GIT's image encoder, for a bundle.

        Raises:
            CheckpointError: it makes other pictures than the encoder takes.
        """
        side = vision.image_size
        size = self.size if isinstance(self.size, dict) else {"shortest_edge": self.size or side}
        cropped = self.crop_size if isinstance(self.crop_size, dict) else {"height": self.crop_size or side}
        shorter = size.get("shortest_edge")
        made = cropped if self.do_center_crop else size
        if {*made.values()} - {None} != {side} or (shorter and (shorter < side or not self.do_center_crop)):
            raise CheckpointError(
                f"{PROCESSOR} makes pictures of {made}, where the image encoder takes {side} x {side}: give the one "
                "that belongs to it"
            )
        return ImageConfig(
            height=side,
            width=side,
            mean=self.image_mean,
            std=self.image_std,
            image_tokens=vision.image_tokens,
            grid=(vision.grid, vision.grid),
            shorter_side=shorter,
            resampling=cast(Resampling, self.resample.name.lower()),
        )


GIT_PROCESSOR = PublishedProcessor()
GIT_LARGE = PublishedGit(
    vision_config=PublishedVision(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
    )
)


class GitVision(nn.Module):
    """GIT's image encoder: normalised pixels float32 [B, 3, H, W] -> features float32 [B, image_tokens, width]."""

    def __init__(self, config: PublishedVision) -> None:
        super().__init__()
        settings = GitVisionConfig(**config.model_dump(), attn_implementation="eager")  # the only one that it has
        self.config = config
        self.model = GitVisionModel(settings)

    def forward(self, pixels: Tensor) -> Tensor:
        """The class token, then the patches row by row."""
        features: Tensor = self.model(pixels).last_hidden_state
        return features


@dataclass(frozen=True)
class Git:
    """A converted GIT."""

    vision: GitVision
    decoder: GitDecoder
    processor: PublishedProcessor = GIT_PROCESSOR

    @property
    def image(self) -> ImageConfig:
        """Preprocessing and grid of the image encoder, for a bundle."""
        return self.processor.image_config(self.vision.config)

    def save(self, folder: Path) -> None:
        """Write `vision/` in transformers layout and `decoder/` in ours."""
        self.vision.model.save_pretrained(folder / "vision")
        (folder / "vision" / PROCESSOR).write_text(self.processor.model_dump_json(indent=1) + "\n")
        self.decoder.save(folder / "decoder")


def convert_git(folder: Path) -> Git:
    """Convert a published GIT of any size.

    Args:
        folder: `config.json` and `model.safetensors` or `pytorch_model.bin`, as transformers writes them, and
            `preprocessor_config.json`, if the pictures are not made as for every published GIT.

    Raises:
        CheckpointError: something is missing, damaged, hostile, or does not fit together.
    """
    path = weights_file(folder)
    config = read_config(folder / "config.json", PublishedGit)
    return git_of(read_state_dict(path), config, path, read_processor(folder))


def read_processor(folder: Path) -> PublishedProcessor:
    """Read how a GIT in this folder makes pictures; without a file, as every published GIT does.

    Raises CheckpointError as `read_config` does.
    """
    path = folder / PROCESSOR
    return read_config(path, PublishedProcessor) if path.is_file() else GIT_PROCESSOR


def git_vision(folder: Path) -> ImageModules:
    """The image encoder of a converted GIT, `vision/` of what `im2sp convert git` wrote.

    Raises:
        Im2SpError: something is missing, damaged, or does not fit together.
    """
    require_converted(folder, f"im2sp convert git GIT -o {folder.parent}")
    config, path = read_config(folder / "config.json", PublishedVision), weights_file(folder)
    state = {f"model.{name}": value for name, value in read_state_dict(path).items()}
    return ImageModules(read_processor(folder).image_config(config), _vision_of(state, config, path))


def git_of(state: StateDict, config: PublishedGit, path: Path, processor: PublishedProcessor) -> Git:
    """Make a GIT of the tensors of a GitForCausalLM. Raises CheckpointError when they do not fit the config."""
    processor.image_config(config.vision_config)  # before the weights, which take long
    state = {name: tensor for name, tensor in state.items() if name not in POSITIONS}
    vision = {f"model.{name.removeprefix(VISION)}": value for name, value in state.items() if name.startswith(VISION)}
    decoder = decoder_of(state, config, config.vision_config.hidden_size, path)
    return Git(_vision_of(vision, config.vision_config, path), decoder, processor)


def decoder_of(state: StateDict, config: PublishedGit, image_width: int, path: Path) -> GitDecoder:
    """Make a decoder of the tensors of a GitForCausalLM, without those of its image encoder.

    Args:
        image_width: channels that the image encoder gives.

    Raises:
        CheckpointError: the tensors do not fit the config.
    """
    state = {name: value for name, value in state.items() if name not in POSITIONS and not name.startswith(VISION)}
    embeddings, tied = state.get("git.embeddings.word_embeddings.weight"), config.tie_word_embeddings
    if tied and embeddings is not None and not torch.equal(state.setdefault("output.weight", embeddings), embeddings):
        raise CheckpointError(f"{path} has an output layer that is not tied to its embeddings: give its config")
    sizes = GitDecoderConfig(
        vocabulary_size=config.vocab_size,
        image_width=image_width,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        feed_forward=config.intermediate_size,
        max_positions=config.max_position_embeddings,
        layer_norm_eps=config.layer_norm_eps,
        image_norm_eps=config.vision_config.layer_norm_eps,
        tied=tied,
    )
    decoder = with_weights(lambda: GitDecoder(sizes), renamed(state, DECODER_NAMES), path)
    if tied:
        decoder.output.weight = decoder.word_embeddings.weight
    return decoder


def _vision_of(state: StateDict, config: PublishedVision, path: Path) -> GitVision:
    vision = with_weights(lambda: GitVision(config), state, path)
    embeddings: Any = vision.model.vision_model.embeddings
    embeddings.position_ids = torch.arange(config.image_tokens)[None]  # no checkpoint keeps it
    return vision
