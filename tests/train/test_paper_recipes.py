"""The four recipes of the paper, from published checkpoints and corpora in their layouts to bundles that speak.

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
from transformers import GitForCausalLM, HubertConfig, HubertModel
from typer.testing import CliRunner

from im2sp.bundle import SPECIAL_TOKENS
from im2sp.captioner import Captioner
from im2sp.errors import Im2SpError
from im2sp.image.loading import load_image, to_pixels
from im2sp.train import pipeline
from im2sp.train.cli import app
from im2sp.train.convert.git import CLIP_MEAN, CLIP_STD, translator_names
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.sentences import store_sentences
from im2sp.train.data.speech_shards import read_shards
from im2sp.train.data.unit_table import UnitRow, write_unit_table
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.models.token_vit import TokenVit
from im2sp.train.models.unit_hifigan import UnitHifigan
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.recipe import Recipe
from im2sp.train.stages.units import learn_subwords
from im2sp.train.stages.vocoder import SPEAKERS
from tests.train.convert import published_hifigan
from tests.train.convert.published_git import IMAGE_TOKENS, POSITIONS, SIDE, random_git
from tests.train.data import tiny_corpora
from tests.train.models import published_token_vit, published_vit_vqgan

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
UNITS = 200
TOKEN_VIT = published_token_vit.CONFIG
BFLOAT16 = 0.05  # of the spread of the features: how far they may be off


@pytest.fixture(scope="module")
def git() -> GitForCausalLM:
    return random_git()


@pytest.fixture(scope="module")
def published(git: GitForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every checkpoint that the recipes want, as it was published."""
    folder = tmp_path_factory.mktemp("published")
    git.save_pretrained(folder / "git")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    hubert = HubertConfig(conv_dim=(8,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, **sizes)
    HubertModel(hubert).save_pretrained(folder / "hubert")
    np.save(folder / "km200.npy", np.random.default_rng(0).normal(size=(UNITS, 16)).astype(np.float32))
    voice = published_hifigan.CONFIG | {"num_embeddings": UNITS, "upsample_initial_channel": 32}
    state = published_hifigan.audible(published_hifigan.published_state(voice))
    published_hifigan.write_published(folder / "hifigan", voice, state)
    torch.save(published_vit_vqgan.published_state(), folder / "tokenizer.ckpt")
    torch.save(published_vit_vqgan.published_codebook(), folder / "codebook.ckpt")
    torch.save({"model": published_token_vit.published_state()}, folder / "seit.pth")
    return folder


def convert(published: Path, runs: Path, kind: str, vocoder: bool = True) -> None:
    """The commands of recipes/paper/README.md."""
    commands = [
        f"git {published}/git -o {runs}/git",
        f"hubert {published}/hubert --clusters {published}/km200.npy --layer 1 -o {runs}/hubert/speech_encoder",
    ]
    if vocoder:
        hifigan = f"{published}/hifigan/g_00500000 --config {published}/hifigan/config.json"
        commands.append(f"hifigan {hifigan} -o {runs}/vocoder")
    if kind == "units":
        tokenizer = f"{published}/tokenizer.ckpt --codebook {published}/codebook.ckpt"
        commands += [
            f"vit-vqgan {tokenizer} -o {runs}/image_tokenizer",
            f"seit {published}/seit.pth -o {runs}/token_vit",
        ]
    for command in commands:
        done = CliRunner().invoke(app, ["convert", *command.split()], catch_exceptions=False)
        assert done.exit_code == 0, done.output


def write_corpus(name: str, folder: Path) -> dict[str, Path]:
    """A corpus with its photos, and the photos that a recipe learns from or reports on, by image id."""
    if name == "coco":
        tiny_corpora.write_spoken_coco(folder)
        tiny_corpora.write_karpathy_coco(folder / "dataset_coco.json", {9: "train", 25: "restval", 42: "val"})
        names = {"42": "val2014/" + tiny_corpora.coco_name(42)}
        names |= {str(n): "train2014/" + tiny_corpora.coco_name(n, "train2014") for n in (9, 25)}
    else:
        tiny_corpora.write_flickr8k_audio(folder)
        names = {name: f"Flicker8k_Dataset/{name}.jpg" for name in ("3_c", "1_a", "2_b")}
    random = np.random.default_rng(0)
    for place in names.values():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(256, size=(30, 40, 3), dtype=np.uint8)).save(folder / place)
    return {image_id: folder / place for image_id, place in names.items()}


def small(recipe: Recipe, **changes: dict[str, object]) -> Recipe:
    """A recipe with the sizes of the tiny checkpoints, and three steps."""
    sizes = {"width": 24, "layers": 3, "heads": 4, "feed_forward": 40, "max_positions": POSITIONS}
    changes = {
        "translator": sizes,
        "translate": {"steps": 3, "photos": 2, "warm_up": 1, "report_every": 1},
        "hifigan": {"steps": 2, "batch": 2, "segment_frames": 5, "judge_channels": 128, "report_every": 1},
        "hifigan_sizes": {"width": 8, "channels": 32, "duration_width": 8},
    } | changes
    if recipe.sections["image_encoder"]["kind"] == "token-vit":
        changes["token_vit_sizes"] = TOKEN_VIT.__dict__
    else:
        changes["image_encoder"] = {"kind": "git"}
    return replace(recipe, sections=recipe.sections | {n: recipe.sections[n] | new for n, new in changes.items()})


@pytest.mark.parametrize("data", ["coco", "flickr8k"])
@pytest.mark.parametrize("kind", ["raw", "units"])
def test_from_published_files_to_a_bundle_that_speaks(
    data: str, kind: str, git: GitForCausalLM, published: Path, tmp_path: Path
) -> None:
    """Those of COCO with a converted vocoder, those of Flickr8k with one that they train."""
    photos = write_corpus(data, tmp_path / "data")
    recipe = small(Recipe.read(PAPER / f"{data}-{kind}.toml", tmp_path / "data", tmp_path / "runs"))
    convert(published, recipe.runs, kind, vocoder=data == "coco")
    for stage in ("speak", "units", "vocoder", "encode", "translate", "export"):
        getattr(pipeline, stage)(recipe)

    voice = UnitHifigan.load(recipe.vocoder)
    if data == "flickr8k":
        names = json.loads((recipe.vocoder / SPEAKERS).read_text())
        assert (voice.config.units, voice.config.speakers, voice.config.channels) == (UNITS, len(names), 32)
        assert names == sorted({clip.speaker for clip in read_shards(recipe.speech, "train")})
        assert len((recipe.vocoder / "log.jsonl").read_text().splitlines()) == 2
    else:
        assert not (recipe.vocoder / "log.jsonl").exists()  # nothing was to be trained
    spoken = {split: list(read_shards(recipe.speech, split)) for split in ("train", "dev")}
    assert [len(clips) for clips in spoken.values()] == [4, 2]
    features = ImageFeatures(recipe.features)
    assert list(features.rows) == list(photos)  # of dev first
    for image_id, path in photos.items():
        wanted = expected_features(kind, git, recipe, path)
        assert np.square(features.get(image_id) - wanted).mean() < (BFLOAT16 * wanted.std()) ** 2

    learned, started = GitDecoder.load(recipe.translator()).state_dict(), git.state_dict()
    for theirs, ours in translator_names(3).items():
        if ours in ("word_embeddings", "output") or (kind == "units" and ours.startswith("image_")):
            continue
        for part in ("weight", "bias"):
            if f"{theirs}.{part}" in started:
                frozen = kind == "raw" and ours in ("image_projection", "image_norm")
                limit = 0 if frozen else 4 * 5e-5  # of a few steps of AdamW at the recipe's learning rate
                assert (learned[f"{ours}.{part}"] - started[f"{theirs}.{part}"]).abs().max() <= limit, ours

    bundle = Captioner.from_pretrained(recipe.bundle, threads=1)
    assert (bundle.bundle.config.image_units is not None) == (kind == "units")
    caption = bundle.caption(next(iter(photos.values())))
    assert len(caption.waveform) == caption.durations.sum() * 320
    frames = torch.from_numpy(np.repeat(caption.units, caption.durations))[None]
    with torch.inference_mode():
        wanted = voice(frames)[0].numpy()
    assert np.abs(caption.waveform - wanted).max() < 0.02 * np.abs(wanted).max()  # weights of the bundle are float16
    assert "EfficientNet" not in (recipe.bundle / "README.md").read_text()


@pytest.mark.parametrize("name", ["coco-raw", "coco-units", "flickr8k-raw", "flickr8k-units"])
def test_captions_of_more_than_1024_tokens_are_left_out(name: str, tmp_path: Path) -> None:
    recipe = Recipe.read(PAPER / f"{name}.toml")
    longest = recipe.section("translator", GitDecoderConfig, vocabulary_size=SPECIAL_TOKENS + UNITS).max_positions
    assert (longest, recipe.subwords) == (1024, UNITS)
    tables = tmp_path / "units"
    lengths = {"fits": 1022, "too long": 1023}  # units without repeats, and begin and end
    rows = [
        UnitRow(image, image, np.repeat(np.arange(n) % UNITS, 2).astype(np.uint16), "train", "", 40, "")
        for image, n in lengths.items()
    ]
    write_unit_table(tables / "train-0000.parquet", rows, {"units": UNITS})
    subwords = learn_subwords(tables, tmp_path / "subwords.json", UNITS, recipe.subwords)
    found = store_sentences(tables, "train", "*", subwords, longest, tmp_path / "out")
    assert {image: [len(tokens) for tokens in each] for image, each in found.items()} == {"fits": [1024]}
    tokens = torch.from_numpy(found["fits"][0].astype(np.int64))[None]
    small = GitDecoderConfig(subwords.vocabulary_size, 8, 8, 1, 1, 8, max_positions=longest)
    with torch.inference_mode():
        assert GitDecoder(small)(torch.zeros(1, 4, 8), tokens, torch.zeros(1).long()).shape[1] == 1024


def expected_features(kind: str, git: GitForCausalLM, recipe: Recipe, photo: Path) -> np.ndarray:
    """What transformers' GIT sees, or the token ViT by the units of the tokenizer."""
    with torch.inference_mode():
        if kind == "raw":
            pixels = to_pixels(load_image(photo), SIDE, SIDE, CLIP_MEAN, CLIP_STD)
            found = git.git.image_encoder(torch.from_numpy(pixels)[None]).last_hidden_state[0]
            assert len(found) == IMAGE_TOKENS
            return found.numpy()
        tokenizer, token_vit = VitVqgan.load(recipe.image_tokenizer), TokenVit.load(recipe.token_vit)
        side = tokenizer.config.image_size
        pixels = to_pixels(load_image(photo), side, side, (0,) * 3, (1,) * 3)
        grid = tokenizer.encode(torch.from_numpy(pixels)[None]).reshape(6, 6)[1:5, 1:5]
        return token_vit(tokenizer.codebook.weight[grid].permute(2, 0, 1)[None])[0].numpy()


def test_what_does_not_fit_is_one_sentence(published: Path, tmp_path: Path) -> None:
    write_corpus("flickr8k", tmp_path / "data")
    recipe = Recipe.read(PAPER / "flickr8k-raw.toml", tmp_path / "data", tmp_path / "runs")
    with pytest.raises(Im2SpError, match=r"im2sp-lab convert git GIT -o .*/git first"):
        pipeline.encode(recipe)
    units = Recipe.read(PAPER / "flickr8k-units.toml", tmp_path / "data", tmp_path / "runs")
    with pytest.raises(Im2SpError, match="im2sp-lab convert vit-vqgan"):
        pipeline.encode(units)
    convert(published, recipe.runs, "units")
    with pytest.raises(Im2SpError, match="kind = 'git-large' of the recipe stands for"):
        pipeline.encode(recipe)
    with pytest.raises(Im2SpError, match=r"\[token_vit_sizes\] of the recipe stands for"):
        pipeline.encode(units)
    strange = replace(recipe, sections=recipe.sections | {"image_encoder": {"kind": "eye"}})
    with pytest.raises(Im2SpError, match="no image encoder 'eye': known are git-base, git-large, git, token-vit"):
        pipeline.encode(strange)
    for stage in ("speak", "units", "encode"):
        getattr(pipeline, stage)(small(recipe))
    with pytest.raises(Im2SpError, match=r"has width = 24 where \[translator\] of the recipe has 16"):
        pipeline.translate(small(recipe, translator={"width": 16}))
    two = replace(recipe, sections=recipe.sections | {"vocoder": {}}, runs=tmp_path / "two")
    convert(published, two.runs, "raw", vocoder=False)
    with pytest.raises(Im2SpError, match=r"the recipe has \[hifigan\] and \[vocoder\]: leave out"):
        pipeline.vocoder(two)
    music = replace(recipe, sections=recipe.sections | {"corpus": {"layout": "music"}})
    with pytest.raises(Im2SpError, match="has the layout 'music'"):
        pipeline.speak(music)
