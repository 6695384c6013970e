"""The stages of a recipe that work on image units in place of image features: training, and the parts of a bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from im2sp.bundle import ImageUnitsConfig
from im2sp.errors import Im2SpError
from im2sp.train.data.image_features import PhotoInputs
from im2sp.train.data.token_augmentation import TokenAugmentation
from im2sp.train.data.unit_features import StoredUnits, UnitFeatures
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.export import ImageUnitModules
from im2sp.train.image_encoders import TOKEN_VIT as TOKEN_VIT_KIND
from im2sp.train.image_encoders import ImageEncoderSection, image_config
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.models.saving import CONFIG
from im2sp.train.models.semantic_units import FeaturesFromUnits
from im2sp.train.models.token_vit import TokenVit
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.recipe import IMAGE_ENCODER, SEMANTIC, VIT_VQGAN, Recipe
from im2sp.train.stages.semantic_units import load_semantic_units, semantic_tokenizer, stored_semantic_units
from im2sp.train.stages.translate import train_and_keep
from im2sp.train.stages.vit_vqgan_units import store_vit_vqgan_units, vit_vqgan_modules, vit_vqgan_tokenizer
from im2sp.train.training.token_translator import TOKEN_VIT, SemanticTranslator, TokenTranslator
from im2sp.train.training.translator import TranslatorTraining

SEMANTIC_AUGMENTATION = "semantic_augmentation"  # section: of semantic units in training


@dataclass(frozen=True)
class UnitTraining(TranslatorTraining):
    """Options for a translator that has all but its eyes from a finished one: it gets used to what units still say."""

    steps: int = 600
    distilled_from: int | None = 0
    learning_rate: float = 3e-4
    warm_up: int = 50


def translate_units(
    recipe: Recipe, start: str, seen: str, subwords: UnitSubwords, photos: dict[str, dict[str, Path]]
) -> None:
    """Stored image units -> speech units.

    Args:
        start: "pretrained" takes all it can from the finished translator on photo features, "scratch" nothing.
        photos: by folder of features, then by image id.
    """
    torch.manual_seed(recipe.seed)
    finished = _finished(recipe) if start == "pretrained" else None
    config = (
        finished.config
        if finished
        else recipe.section("translator", GitDecoderConfig, vocabulary_size=subwords.vocabulary_size)
    )
    model: GitDecoder
    features: PhotoInputs
    if seen == SEMANTIC:
        model, features = _semantic(recipe, finished, config)
    else:
        model, features = _vit_vqgan(recipe, finished, config, photos)
    # Semantic units are what the finished translator saw, so it has little to learn; all else learns to see anew.
    options: TranslatorTraining = (
        recipe.section("translate_units", UnitTraining, seed=recipe.seed)
        if seen == SEMANTIC and finished
        else recipe.section("translate", TranslatorTraining, seed=recipe.seed)
    )
    train_and_keep(model, features, recipe.lessons, subwords, options, recipe.translator(start, seen))


def _finished(recipe: Recipe) -> GitDecoder:
    _require(recipe.translator(), "translate")
    return GitDecoder.load(recipe.translator())


def _semantic(recipe: Recipe, finished: GitDecoder | None, config: GitDecoderConfig) -> tuple[GitDecoder, PhotoInputs]:
    """Augmented where the recipe has the section [semantic_augmentation]."""
    augmentation = None
    if SEMANTIC_AUGMENTATION in recipe.sections:
        augmentation = recipe.section(SEMANTIC_AUGMENTATION, TokenAugmentation)
    start = finished.on_projected() if finished else None
    return semantic_translator(recipe, start.config if start else config, augmentation, start)


def semantic_translator(
    recipe: Recipe,
    config: GitDecoderConfig,
    augmentation: TokenAugmentation | None,
    start: GitDecoder | None = None,
) -> tuple[GitDecoder, PhotoInputs]:
    """A translator of semantic units, and what it looks at: the units, or what they say where nothing changes them.

    Args:
        config: sizes of the translator, but for the width of its images.
        start: gives the weights, if any.
    """
    quantiser = load_semantic_units(recipe.semantic_units, recipe.translator())
    cells = recipe.section("backbone", BackboneConfig).image_tokens
    units = stored_semantic_units(quantiser, cells, recipe.semantic_units, recipe.all_features, recipe.views)
    sizes = replace(config, image_width=quantiser.config.width)
    seeing = SemanticTranslator(sizes, quantiser, augmentation) if augmentation else GitDecoder(sizes)
    if start:
        seeing.load_partial(start, exclude=())
    return seeing, units if augmentation else UnitFeatures(units, quantiser.features)


def _vit_vqgan(
    recipe: Recipe, finished: GitDecoder | None, config: GitDecoderConfig, photos: dict[str, dict[str, Path]]
) -> tuple[GitDecoder, PhotoInputs]:
    _require(recipe.token_vit, "token-vit")
    tokenizer = _image_tokenizer(recipe)
    made_by = vit_vqgan_tokenizer(tokenizer, recipe.image_tokenizer)
    for name, some in photos.items():
        store_vit_vqgan_units(some, recipe.views, tokenizer, made_by, recipe.vit_vqgan_units / name)
    augmentation = recipe.section("token_augmentation", TokenAugmentation)
    model, stored = vit_vqgan_translator(recipe, config, augmentation, tuple(photos))
    if finished:
        model.load_partial(finished, exclude=("image_projection",))
    return model, stored


def vit_vqgan_translator(
    recipe: Recipe, config: GitDecoderConfig, augmentation: TokenAugmentation, folders: tuple[str, ...]
) -> tuple[TokenTranslator, StoredUnits]:
    """A fresh translator behind the token ViT, and the stored units that it looks at.

    Args:
        config: sizes of the translator, but for the width of its images.
        folders: of units, called after the folders of features.
    """
    tokenizer, token_vit = _image_tokenizer(recipe), TokenVit.load(recipe.token_vit)
    made_by = vit_vqgan_tokenizer(tokenizer, recipe.image_tokenizer)
    stored = StoredUnits([recipe.vit_vqgan_units / name for name in folders], recipe.views, made_by, "translate")
    sizes = replace(config, image_width=token_vit.config.width)
    codebook = tokenizer.codebook.weight.detach()
    return TokenTranslator(sizes, token_vit, codebook, tokenizer.config.grid, augmentation), stored


def image_unit_modules(recipe: Recipe, start: str, seen: str) -> ImageUnitModules:
    """What the bundle of a translator on image units is made of, where another has an image encoder.

    Raises:
        Im2SpError: a stage before is missing.
    """
    if seen == SEMANTIC:
        sizes = recipe.section("backbone", BackboneConfig)
        quantiser = load_semantic_units(recipe.semantic_units, recipe.translator())
        made_by = semantic_tokenizer(quantiser, sizes.image_tokens, recipe.semantic_units)
        return ImageUnitModules(
            image=image_config(sizes),
            config=ImageUnitsConfig(**made_by.described()),
            tokenizer=nn.Sequential(ImageBackbone.pretrained(sizes, recipe.tuned_backbone), quantiser),
            backbone=FeaturesFromUnits(quantiser),
        )
    translator = recipe.translator(start, VIT_VQGAN)
    _require(translator / TOKEN_VIT, f"translate --input {VIT_VQGAN}")
    return _vit_vqgan_modules(recipe, translator / TOKEN_VIT)


def frozen_unit_modules(recipe: Recipe) -> ImageUnitModules | None:
    """The same for a recipe whose frozen image encoder sees image units; None where it sees pixels."""
    if IMAGE_ENCODER not in recipe.sections:
        return None
    if recipe.section(IMAGE_ENCODER, ImageEncoderSection).kind != TOKEN_VIT_KIND:
        return None
    _require(recipe.token_vit, "token-vit")
    return _vit_vqgan_modules(recipe, recipe.token_vit)


def _vit_vqgan_modules(recipe: Recipe, folder: Path) -> ImageUnitModules:
    name = f"{recipe.image_tokenizer.parent.name}-vit-vqgan"
    return vit_vqgan_modules(_image_tokenizer(recipe), TokenVit.load(folder), name)


def _image_tokenizer(recipe: Recipe) -> VitVqgan:
    _require(recipe.image_tokenizer, "image-tokenizer")
    return VitVqgan.load(recipe.image_tokenizer)


def _require(folder: Path, stage: str) -> None:
    if not (folder / CONFIG).is_file():
        raise Im2SpError(f"{folder / CONFIG} is missing: run the stage `{stage}` first")
