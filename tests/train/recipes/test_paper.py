"""The recipes of the paper, from published checkpoints and corpora in their layouts to bundles that speak.

Checkpoints are random and tiny and corpora have a few photos, so sizes and steps of the recipes are overridden.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, GitForCausalLM

from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError
from im2sp.image.loading import load_image, to_pixels
from im2sp.train.convert.git import DECODER_NAMES
from im2sp.train.convert.published import renamed
from im2sp.train.data.corpora.items import coco_image_id
from im2sp.train.data.photo_units import PhotoArrays
from im2sp.train.data.speech_shards import read_shards
from im2sp.train.data.unit_table import UnitRow, write_unit_table
from im2sp.train.models.git import GitDecoder
from im2sp.train.models.token_vit import TokenVit
from im2sp.train.models.unit_hifigan import UnitHifigan
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.recipes import read_recipe
from im2sp.train.recipes.paper import STAGES, VIEW, Recipe, make_features, make_units, sentences
from im2sp.train.stages import run_stages
from tests.train.convert.published_files import run_convert, write_published_files
from tests.train.convert.published_git import POSITIONS, SIDE, random_git
from tests.train.data import tiny_corpora

PAPER = Path(__file__).parents[3] / "recipes" / "paper"
BFLOAT16 = 0.05  # of the spread of the features: how far they may be off


@pytest.fixture(scope="module")
def git() -> GitForCausalLM:
    return random_git(1, tied=True)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every checkpoint that the recipes want, converted by the commands of recipes/paper/README.md."""
    folder = tmp_path_factory.mktemp("published")
    write_published_files(folder)
    for words in (
        ["git", folder / "GIT", "-o", folder / "git"],
        ["hubert", folder / "HUBERT", f"--clusters={folder}/km.bin", "--layer=1", f"-o{folder}/voice/speech_encoder"],
        ["hifigan", folder / "g_00500000", "--config", folder / "config.json", "-o", folder / "voice/vocoder"],
        ["vit-vqgan", folder / "tokenizer.ckpt", f"--codebook={folder}/codebook.ckpt", f"-o{folder}/image_tokenizer"],
        ["seit", folder / "SEIT", "-o", folder / "token_vit"],
    ):  # fmt: skip
        assert run_convert(*words).exit_code == 0
    return folder


def write_coco(folder: Path) -> list[str]:
    """SpokenCOCO with Karpathy's splits; return the photos that the recipe learns from or reports on."""
    tiny_corpora.write_spoken_coco(folder)
    tiny_corpora.write_karpathy_coco(folder / "dataset_coco.json", {9: "train", 25: "restval", 42: "val"})
    return ["train2014/" + tiny_corpora.coco_name(9, "train2014"), "val2014/" + tiny_corpora.coco_name(42)]


def write_flickr8k(folder: Path) -> list[str]:
    """Flickr8k Audio with Karpathy's splits; return the photos that the recipe learns from or reports on."""
    tiny_corpora.write_flickr8k_audio(folder)
    splits = {"1_a": "train", "2_b": "train", "3_c": "val", "4_d": "test"}
    images = [{"filename": f"{name}.jpg", "split": split, "sentences": []} for name, split in splits.items()]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    return [f"Flicker8k_Dataset/{name}.jpg" for name in ("3_c", "1_a", "2_b")]


def write_corpus(name: str, folder: Path) -> dict[str, Path]:
    """The corpora of a recipe with their photos, by image id."""
    if name == "joint":
        places = [folder / "coco" / place for place in write_coco(folder / "coco")]
        places += [folder / "flickr8k" / place for place in write_flickr8k(folder / "flickr8k")]
    else:
        places = [folder / place for place in write_flickr8k(folder)]
    random = np.random.default_rng(0)
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(256, size=(30, 40, 3), dtype=np.uint8)).save(place)
    return {coco_image_id(place.name) or place.stem: place for place in places}


def small(name: str, converted: Path, folder: Path) -> Recipe:
    """A recipe with the tiny checkpoints, and three steps."""
    recipe, _ = read_recipe(PAPER / f"{name}.toml", folder / "data", folder / "runs")
    assert isinstance(recipe, Recipe)
    folders = {
        part: str(converted / getattr(recipe, part)) if getattr(recipe, part) else ""
        for part in ("git", "image_tokenizer", "token_vit", "voice")
    }
    training = replace(recipe.captioner, steps=3, photos=2, warm_up=1, log_every=1)
    return replace(recipe, **folders, captioner=training, max_positions=POSITIONS)


@pytest.mark.parametrize("name", ["joint-raw", "joint-units"])
def test_from_published_files_to_a_bundle_that_speaks(
    name: str, git: GitForCausalLM, converted: Path, tmp_path: Path
) -> None:
    photos = write_corpus(name.partition("-")[0], tmp_path / "data")
    recipe = small(name, converted, tmp_path)
    run_stages(recipe, STAGES)

    assert [len(list(read_shards(recipe.runs / "recordings", split))) for split in ("train", "dev")] == [6, 4]
    features = PhotoArrays(recipe.runs / "features", [VIEW])
    assert set(features.rows) == set(photos)
    for image_id, path in photos.items():
        wanted = expected_features(name, git, recipe, path)
        assert np.square(features.batch([image_id])[0] - wanted).mean() < (BFLOAT16 * wanted.std()) ** 2

    learned, started = GitDecoder.load(recipe.runs / "captioner").state_dict(), renamed(git.state_dict(), DECODER_NAMES)
    for ours, value in started.items():
        image_part = ours.startswith(("image_projection", "image_norm"))
        if ours.startswith(("git.", "word_embeddings", "output")) or ("units" in name and image_part):
            continue
        limit = 0 if image_part else 4 * 5e-5  # frozen, or of a few steps of AdamW at the recipe's learning rate
        assert (learned[ours] - value).abs().max() <= limit, ours

    captioner = Captioner.from_pretrained(recipe.runs / "bundle", threads=1)
    assert (captioner.bundle.config.image_units is not None) == ("units" in name)
    caption = captioner.caption(next(iter(photos.values())))
    frames = torch.from_numpy(np.repeat(caption.units, caption.durations))[None]
    with torch.inference_mode():
        sound = UnitHifigan.load(Path(recipe.voice) / "vocoder")(frames)[0].numpy()
    assert np.abs(caption.waveform - sound).max() < 0.02 * np.abs(sound).max()  # weights of the bundle are float16
    card = (recipe.runs / "bundle" / "README.md").read_text()
    corpora = " and ".join(corpus.layout for corpus in (recipe.recordings, *recipe.recordings.more))
    assert f"| corpus | {corpora}, train split |" in card
    assert "EfficientNet" not in card


def expected_features(name: str, git: GitForCausalLM, recipe: Recipe, photo: Path) -> np.ndarray:
    """What transformers' GIT sees, or the token ViT by the units of the tokenizer."""
    with torch.inference_mode():
        if "raw" in name:
            pixels = CLIPImageProcessorPil(size=SIDE, crop_size=SIDE)(Image.open(photo), return_tensors="pt")
            return git.git.image_encoder(pixels["pixel_values"]).last_hidden_state[0].numpy()
        tokenizer, token_vit = VitVqgan.load(Path(recipe.image_tokenizer)), TokenVit.load(Path(recipe.token_vit))
        side = tokenizer.config.image_size
        pixels = to_pixels(load_image(photo), side, side, (0,) * 3, (1,) * 3)
        grid = tokenizer(torch.from_numpy(pixels)[None]).reshape(6, 6)[1:5, 1:5]
        return token_vit(tokenizer.codebook.weight[grid].permute(2, 0, 1)[None])[0].numpy()


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.toml")), ids=lambda path: path.stem)
def test_captions_of_more_than_1024_tokens_are_left_out(path: Path, tmp_path: Path) -> None:
    recipe, _ = read_recipe(path, runs=tmp_path)
    assert isinstance(recipe, Recipe)
    lengths = {"fits": 1022, "too long": 1023}  # units without repeats, and begin and end
    rows = [
        UnitRow(image, image, np.repeat(np.arange(n) % 200, 2).astype(np.uint16), "train", "", 40, "")
        for image, n in lengths.items()
    ]
    write_unit_table(tmp_path / "units" / "train-0000.parquet", rows, {"units": 200})
    (found,) = sentences(recipe, "train")
    assert (found.photo, [len(tokens) for tokens in found.sentences]) == ("fits", [1024])


def test_what_is_missing_is_one_sentence(converted: Path, tmp_path: Path) -> None:
    write_corpus("flickr8k", tmp_path / "data")
    recipe = small("flickr8k-units", converted, tmp_path)
    with pytest.raises(Im2SpError, match="holds no speech encoder: run im2sp convert hubert"):
        make_units(replace(recipe, voice="none"), tmp_path)
    with pytest.raises(Im2SpError, match="run im2sp convert vit-vqgan"):
        make_features(replace(recipe, image_tokenizer="none"), tmp_path)
    with pytest.raises(Im2SpError, match="run im2sp convert git"):
        make_features(replace(recipe, token_vit="", git="none"), tmp_path)
