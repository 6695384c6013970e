"""A recipe and a kind of GPU -> what training the translator will take: parameters, memory, tokens, FLOPs, hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from im2sp.bundle import SPECIAL_TOKENS
from im2sp.errors import Im2SpError
from im2sp.lab.planning.arithmetic import HALF, SINGLE, Batch, Decoder, Encoder, Layers
from im2sp.lab.recipe import IMAGE_ENCODER, Recipe

if TYPE_CHECKING:
    from torch import nn

    from im2sp.lab.convert.git import PublishedVision
    from im2sp.lab.models.token_vit import TokenVitConfig
    from im2sp.lab.models.translator import TranslatorConfig

PROJECTION = ("image_projection", "image_norm")
LIBRARIES = 1_500_000_000  # bytes that CUDA and its libraries take for themselves; assumed


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, by its data sheet."""

    peak: float  # FLOPs a second, dense, bfloat16 with sums in float32
    memory: float  # bytes


GPUS = {
    "a100-40gb": Gpu(312e12, 40e9),
    "a100-80gb": Gpu(312e12, 80e9),
    "h100-80gb": Gpu(989e12, 80e9),
    "l4": Gpu(121e12, 24e9),
    "rtx-a6000": Gpu(155e12, 48e9),
    "rtx-3090": Gpu(71e12, 24e9),
    "rtx-4090": Gpu(165e12, 24e9),
}


@dataclass(frozen=True)
class PlanSection:
    """Section [plan]: what a recipe cannot know before its data is there."""

    train_photos: int
    caption_tokens: int  # of a caption on average, BOS and EOS included
    gpus: int = 1


@dataclass(frozen=True)
class Memory:
    """A share of the memory of each GPU."""

    what: str
    size: int  # bytes
    why: str  # the formula


@dataclass(frozen=True)
class Plan:
    """What a run will take."""

    encoder_parameters: int
    translator_parameters: int
    trained_parameters: int
    gpus: int
    batch: Batch  # of a step, all GPUs together
    image_tokens: int  # of a photo
    steps: int
    passes: float  # over the photos
    encoder_flops: int  # of all photos and views, once
    encoder_flops_each_step: int  # where it ran in every step, as in the paper's code
    forward: int  # FLOPs of a step
    backward: int
    memory: tuple[Memory, ...]

    @property
    def memory_total(self) -> int:
        """Bytes of each GPU."""
        return sum(part.size for part in self.memory)

    @property
    def tokens(self) -> int:
        """Tokens of a step: those of its photos and those of its captions."""
        return self.batch.photos * self.image_tokens + self.batch.captions * self.batch.tokens

    @property
    def step_flops(self) -> int:
        """FLOPs of a step, all GPUs together."""
        return self.forward + self.backward

    @property
    def flops(self) -> int:
        """FLOPs of all steps."""
        return self.steps * self.step_flops

    def hours(self, flops: int, gpu: Gpu, utilisation: float) -> float:
        """Hours that so many FLOPs take on all GPUs."""
        return flops / (self.gpus * gpu.peak * utilisation) / 3600


def plan(recipe: Recipe) -> Plan:
    """Work out what the stage `translate` of a recipe takes. The models are built without memory for their weights.

    Raises:
        Im2SpError: the recipe lacks a section, or its values do not fit.
    """
    from im2sp.lab.image_encoders import ImageEncoderSection
    from im2sp.lab.models.translator import TranslatorConfig
    from im2sp.lab.training.translator import TranslatorTraining

    section, options = recipe.section("plan", PlanSection), recipe.section("translate", TranslatorTraining)
    kind = recipe.section(IMAGE_ENCODER, ImageEncoderSection).kind
    encoder, image_width, encoder_parameters = _image_encoder(recipe, kind)
    sizes = recipe.section(
        "translator", TranslatorConfig, vocabulary_size=SPECIAL_TOKENS + recipe.subwords, image_width=image_width
    )
    numbers = (section.train_photos, section.caption_tokens - 1, section.gpus, options.steps, options.photos)
    if min(numbers) < 1 or section.caption_tokens - 1 > sizes.max_positions or section.gpus > options.photos:
        raise Im2SpError(
            "the plan of the recipe does not work out: give 1 or more train_photos, steps and photos, caption_tokens "
            f"from 2 to {sizes.max_positions + 1}, and not more gpus than photos a step"
        )
    total, trained, layer = _translator_parameters(sizes, options.frozen)
    decoder = _decoder(sizes, encoder.tokens, options.frozen)
    batch = Batch(options.photos, options.photos * options.captions, section.caption_tokens - 1)
    return Plan(
        encoder_parameters=encoder_parameters,
        translator_parameters=total,
        trained_parameters=trained,
        gpus=section.gpus,
        batch=batch,
        image_tokens=encoder.tokens,
        steps=options.steps,
        passes=options.steps * options.photos / section.train_photos,
        encoder_flops=section.train_photos * len(recipe.views) * encoder.forward(),
        encoder_flops_each_step=options.steps * options.photos * encoder.forward(),
        forward=decoder.forward(batch),
        backward=decoder.backward(batch),
        memory=_memory(
            total,
            trained,
            decoder.activations(batch.part(section.gpus)),
            section.gpus,
            total - max(0, sizes.layers - 2) * layer if options.sharded else None,
        ),
    )


def vision_encoder(sizes: PublishedVision) -> Encoder:
    """The image encoder of a GIT."""
    stack = Layers(sizes.num_hidden_layers, sizes.hidden_size, sizes.intermediate_size)
    return Encoder(stack, sizes.image_tokens, 2 * sizes.grid**2 * 3 * sizes.patch_size**2 * sizes.hidden_size)


def token_vit_encoder(sizes: TokenVitConfig) -> Encoder:
    """A token ViT."""
    from im2sp.lab.models.token_vit import STEM_KERNEL

    stack = Layers(sizes.layers, sizes.width, sizes.feed_forward)
    return Encoder(stack, sizes.image_tokens, 2 * sizes.grid**2 * sizes.code_width * STEM_KERNEL**2 * sizes.width)


def _image_encoder(recipe: Recipe, kind: str) -> tuple[Encoder, int, int]:
    """(the image encoder, its channels, its parameters)."""
    import torch

    from im2sp.lab.convert.git import GitVision
    from im2sp.lab.image_encoders import GITS, TOKEN_VIT
    from im2sp.lab.models.token_vit import TokenVit, TokenVitConfig

    with torch.device("meta"):
        if kind in GITS:
            vision = GITS[kind]
            return vision_encoder(vision), vision.hidden_size, _count(GitVision(vision))
        if kind == TOKEN_VIT:
            sizes = recipe.section("token_vit_sizes", TokenVitConfig)
            return token_vit_encoder(sizes), sizes.width, _count(TokenVit(sizes))
    raise Im2SpError(f"the recipe has no image encoder {kind!r}: a plan knows {', '.join(GITS)} and {TOKEN_VIT}")


def _translator_parameters(sizes: TranslatorConfig, frozen: tuple[str, ...]) -> tuple[int, int, int]:
    """(all, those that are trained, those of a layer)."""
    import torch

    from im2sp.lab.models.translator import Translator
    from im2sp.lab.stages.translate import freeze

    with torch.device("meta"):
        model = Translator(sizes)
    freeze(model, frozen)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return _count(model), trained, _count(model.stack[0])


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _decoder(sizes: TranslatorConfig, image_tokens: int, frozen: tuple[str, ...]) -> Decoder:
    if other := set(frozen) - set(PROJECTION):
        raise Im2SpError(
            f"a plan cannot tell what a step with {min(other)} frozen costs: freeze {PROJECTION} or nothing"
        )
    stack = Layers(sizes.layers, sizes.width, sizes.feed_forward)
    return Decoder(stack, image_tokens, sizes.image_width, sizes.vocabulary_size, set(frozen) != set(PROJECTION))


def _memory(total: int, trained: int, activations: int, gpus: int, together: int | None) -> tuple[Memory, ...]:
    """`together`: parameters of a model in shards that are whole at a time."""
    of = 1 if together is None else gpus
    share = "" if of == 1 else f", a shard of {of}"
    parts = [
        Memory("weights", SINGLE * total // of, f"float32: 4 bytes each{share}"),
        Memory("weights in bfloat16", HALF * total, "a copy for the products: 2 bytes each"),
        Memory("averaged weights", SINGLE * total // of, f"4 bytes each{share}"),
        Memory("gradients", SINGLE * trained // of, f"4 bytes a trained parameter{share}"),
        Memory("AdamW", 2 * SINGLE * trained // of, f"two moments: 8 bytes a trained parameter{share}"),
        Memory("activations", activations, "the photos of one GPU; formula in recipes/paper/README.md"),
        Memory("libraries", LIBRARIES, "assumed"),
    ]
    if of > 1 and together is not None:
        what = "two layers and what is in none, with gradients: 8 bytes each"
        parts.insert(4, Memory("put together", 2 * SINGLE * together, what))
    elif gpus > 1:
        parts.insert(4, Memory("gradients on their way", SINGLE * trained, "buckets of DDP: as much again"))
    return tuple(parts)
