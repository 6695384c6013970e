"""The stages that make what is seen of photos: photos -> image features, and image units in their place."""

from __future__ import annotations

from pathlib import Path

from im2sp.errors import Im2SpError
from im2sp.train.data.flickr8k import photo_path, read_split
from im2sp.train.recipe import CORPUS, Recipe


def photos(recipe: Recipe) -> dict[str, Path]:
    """Photos of both splits by image id, dev first."""
    if CORPUS in recipe.sections:
        from im2sp.train.stages.corpus import CorpusSection, corpus_photos

        return corpus_photos(recipe.data, recipe.section(CORPUS, CorpusSection))
    return {
        name: photo_path(recipe.data, name) for split in ("dev", "train") for name in read_split(recipe.data, split)
    }


def unlabelled_photos(recipe: Recipe) -> dict[str, Path]:
    """Photos without captions by image id, the file name without ".jpg", and pieces of them; none without a folder.

    Raises:
        Im2SpError: there is none in the recipe's folder.
    """
    from im2sp.train.data.photo_pieces import write_pieces

    if not recipe.unlabelled:
        return {}
    found = {path.stem: path for path in sorted(recipe.unlabelled.glob("*.jpg"))}
    if not found:
        raise Im2SpError(
            f"{recipe.unlabelled} holds no .jpg: leave `unlabelled` out of the recipe, or name a folder of photos"
        )
    return found | (write_pieces(found, recipe.pieces, recipe.runs / "pieces") if recipe.pieces else {})


def encode(recipe: Recipe) -> None:
    """Photos -> image features; where the backbone is going to be tuned, only those that tuning starts from."""
    from im2sp.train.image_encoders import efficientnet, image_encoder
    from im2sp.train.models.image_backbone import BackboneConfig
    from im2sp.train.stages.encode import encode as stage

    encoder = efficientnet(recipe.section("backbone", BackboneConfig)) if recipe.tunes else image_encoder(recipe)
    stage(photos(recipe), recipe.frozen_features, encoder, recipe.views)
    if recipe.unlabelled and not recipe.tunes:
        stage(unlabelled_photos(recipe), recipe.unlabelled_features, encoder, recipe.views)


def image_tokenizer(recipe: Recipe) -> None:
    """Photos -> a ViT-VQGAN, and how well it does on photos that it learned from (`report.json`)."""
    from im2sp.train.models.vit_vqgan import VitVqganConfig
    from im2sp.train.stages.image_tokenizer import TokenizerPhotos, photos_to_learn_from, train_image_tokenizer
    from im2sp.train.training.vit_vqgan import VitVqganTraining

    source = recipe.section("image_tokenizer", TokenizerPhotos)
    train_image_tokenizer(
        photos_to_learn_from(recipe.data, source),
        source,
        recipe.section("vit_vqgan_sizes", VitVqganConfig),
        recipe.section("vit_vqgan", VitVqganTraining, seed=recipe.seed),
        recipe.image_tokenizer,
    )


def token_vit(recipe: Recipe) -> None:
    """Image units and cached features -> a token ViT."""
    from im2sp.train.data.image_features import ImageFeatures
    from im2sp.train.data.token_augmentation import TokenAugmentation
    from im2sp.train.models.saving import CONFIG, load_config
    from im2sp.train.models.token_vit import TokenVitConfig
    from im2sp.train.models.vit_vqgan import VitVqganConfig
    from im2sp.train.stages.token_vit import train_on_units
    from im2sp.train.training.token_vit import TokenVitTraining

    if not (recipe.image_tokenizer / CONFIG).is_file():
        raise Im2SpError(f"{recipe.image_tokenizer / CONFIG} is missing: run the stage `image-tokenizer` first")
    made = load_config(recipe.image_tokenizer, VitVqganConfig)
    train_on_units(
        photos(recipe),
        read_split(recipe.data, "dev"),
        ImageFeatures(recipe.features),
        recipe.image_tokenizer,
        recipe.section("token_vit_sizes", TokenVitConfig, code_width=made.code_width),
        recipe.section("token_augmentation", TokenAugmentation),
        recipe.section("token_vit", TokenVitTraining, seed=recipe.seed),
        recipe.token_vit,
    )


def semantic_units(recipe: Recipe) -> None:
    """Image features and the finished translator -> a quantiser, and the units of all photos."""
    from im2sp.train.stages.semantic_units import SemanticUnitsOptions, make_semantic_units

    make_semantic_units(
        recipe.all_features,
        read_split(recipe.data, "dev"),
        recipe.translator(),
        recipe.section("semantic_units", SemanticUnitsOptions),
        recipe.seed,
        recipe.semantic_units,
    )
