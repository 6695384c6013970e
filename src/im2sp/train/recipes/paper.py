"""Recipe of the paper's Im2Sp: published checkpoints and a corpus of spoken captions -> a bundle.

The image encoder, of a GIT or a token ViT on image units, and the voice are converted and frozen. A GIT decoder learns
to continue the image tokens with speech units, without text. See recipes/paper/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from im2sp.bundle import SPECIAL_TOKENS, VocabularyConfig
from im2sp.errors import Im2SpError
from im2sp.image.encoder import pixels_of
from im2sp.train.convert.git import Git, GitVision, PublishedVision, git_vision
from im2sp.train.data.caption_targets import Target
from im2sp.train.data.corpora import read_corpus
from im2sp.train.data.corpora.flickr8k import PHOTO_FOLDER
from im2sp.train.data.corpora.items import ignore
from im2sp.train.data.photo_units import PhotoArrays, write_arrays
from im2sp.train.data.recordings import RecordingOptions, import_recordings
from im2sp.train.data.synthesis import SynthesisConfig
from im2sp.train.data.text_tokenizer import BOS, EOS
from im2sp.train.data.unit_table import iterate_unit_tables
from im2sp.train.export import BundleOptions, BundleParts, ImageModules, TrainedVoice, export_bundle
from im2sp.train.image_encoders import require_converted, vit_vqgan_modules
from im2sp.train.launch import is_main_process
from im2sp.train.model_card import Facts
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.models.saving import CONFIG
from im2sp.train.models.speech_encoder import CLUSTERS, Clusters
from im2sp.train.models.token_vit import TokenVit
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.precision import products
from im2sp.train.speech_units import quantize
from im2sp.train.stages import BaseRecipe, Stage
from im2sp.train.tasks.captioner import CaptionerTask, CaptionerTraining, PhotoBatch
from im2sp.train.trainer import adamw, train

RECORDINGS, UNITS, FEATURES, CAPTIONER, BUNDLE = "recordings", "units", "features", "captioner", "bundle"
ENCODER, VOCODER = "speech_encoder", "vocoder"  # folders of a voice
VIEW = "whole"  # photos are seen as they are
BETAS = (0.9, 0.999)  # of AdamW
DEV_PHOTOS = 300  # whose loss is logged


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Options of a run of the paper's model. The folders are those of `im2sp convert` and of a voice recipe."""

    git: str = "git"  # the decoder to start from; without `token_vit`, the image encoder too
    image_tokenizer: str = ""
    token_vit: str = ""  # reads units of `image_tokenizer`
    voice: str = "voice"
    recordings: RecordingOptions = field(default_factory=lambda: RecordingOptions("spoken-coco"))
    max_positions: int = 1024  # longer captions are left out
    frozen: tuple[str, ...] = ()  # modules of the decoder that are not trained
    captioner: CaptionerTraining = field(default_factory=CaptionerTraining)
    bundle: BundleOptions = field(default_factory=BundleOptions)


class FeatureCaptionerTask(CaptionerTask):
    """Training of a decoder that sees image features, float [image_tokens, width] of each photo, in place of units."""

    def _seen(self, batch: PhotoBatch, random: np.random.Generator | None) -> tuple[Tensor, PhotoBatch]:
        features = self.units.batch(batch.photos, batch.views).astype(np.float32)
        return torch.from_numpy(features).to(self.device), batch


def make_recordings(recipe: Recipe, out: Path) -> None:
    """Import the recordings of the corpus."""
    import_recordings(recipe.data, recipe.recordings, SynthesisConfig(), out)


def make_units(recipe: Recipe, out: Path) -> None:
    """Quantize the recordings with the speech encoder of the voice."""
    folder = Path(recipe.voice) / ENCODER
    if not (folder / CONFIG).is_file():
        raise Im2SpError(f"{folder} holds no speech encoder: run im2sp convert hubert HUBERT --clusters KM -o {folder}")
    quantize(recipe.runs / RECORDINGS, folder, out)


def make_features(recipe: Recipe, out: Path) -> None:
    """Encode the photos with the frozen image encoder: in bfloat16 where that is fast, kept as float16."""
    modules = image_modules(recipe)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone, tokenizer = modules.backbone.to(device), (modules.tokenizer or nn.Identity()).to(device)

    def encode(photos: Sequence[tuple[str, Path]], view: str) -> np.ndarray:
        arrays = [pixels_of(path, modules.image) for _, path in photos]
        with torch.inference_mode():
            seen = tokenizer(torch.from_numpy(np.stack(arrays)).to(device))  # not in bfloat16: it would change units
            with products(device):
                features: np.ndarray = backbone(seen).float().cpu().numpy()
        return features

    known = {row.image_id for row in iterate_unit_tables(recipe.runs / UNITS)}
    items = read_corpus(recipe.data, recipe.recordings, ignore)
    photos = {item.image_id: item.image for item in items if item.image_id in known}
    write_arrays(photos, [VIEW], encode, out)


def image_modules(recipe: Recipe) -> ImageModules:
    """The frozen image encoder. Raises Im2SpError when its checkpoint is missing or does not fit."""
    if not recipe.token_vit:
        return git_vision(Path(recipe.git) / "vision")
    tokenizer, token_vit = Path(recipe.image_tokenizer), Path(recipe.token_vit)
    require_converted(tokenizer, f"im2sp convert vit-vqgan TOKENIZER --codebook CODEBOOK -o {tokenizer}")
    require_converted(token_vit, f"im2sp convert seit CHECKPOINT -o {token_vit}")
    name = f"{recipe.bundle.name}-vit-vqgan"
    return vit_vqgan_modules(VitVqgan.load(tokenizer), TokenVit.load(token_vit), name)


def make_captioner(recipe: Recipe, out: Path) -> None:
    """Train the decoder from GIT's weights, vocabulary apart, by cross-entropy on the next unit."""
    features = PhotoArrays(recipe.runs / FEATURES, [VIEW])
    source = GitDecoder.load(Path(recipe.git) / "decoder")
    sizes = replace(
        source.config,
        vocabulary_size=SPECIAL_TOKENS + _unit_count(recipe),
        image_width=features.batch(list(features.rows)[:1]).shape[-1],
        max_positions=recipe.max_positions,
        image_dropout=0.0,
        tied=True,
    )
    torch.manual_seed(recipe.seed)
    model = GitDecoder(sizes)
    model.transfer(source)
    known = dict(model.named_children())
    for name in recipe.frozen:
        if name not in known:
            raise Im2SpError(f"`frozen` of the recipe names {name!r}: the decoder has {', '.join(known)}")
        known[name].requires_grad_(False)
    dev = {"dev": sentences(recipe, "dev")[:DEV_PHOTOS]}
    targets = sentences(recipe, "train")
    task = FeatureCaptionerTask(recipe.captioner, model, features, targets, dev)  # type: ignore[arg-type]  # a decoder
    # as in the paper's code, all parameters decay
    task.optimizers = {"model": adamw([model], recipe.captioner, BETAS, decays=lambda name, parameter: True)}
    train(task, out)
    if is_main_process():
        model.save(out)


def sentences(recipe: Recipe, split: str) -> list[Target]:
    """Captions of each photo as tokens: BOS, a token for each unit without repeats, EOS."""
    found: dict[str, list[list[int]]] = {}
    for row in iterate_unit_tables(recipe.runs / UNITS, split):
        units = row.speech_units.astype(int)
        kept = units[np.diff(units, prepend=-1) != 0]
        if 0 < len(kept) <= recipe.max_positions - 2:
            found.setdefault(row.image_id, []).append([BOS, *(SPECIAL_TOKENS + kept).tolist(), EOS])
    return [Target(photo, captions, 1.0) for photo, captions in found.items()]


def make_bundle(recipe: Recipe, out: Path) -> None:
    """Export the decoder with the converted image encoder and the voice."""
    voice = TrainedVoice.load(Path(recipe.voice) / VOCODER, Path(recipe.voice) / ENCODER)
    count = _unit_count(recipe)
    vocabulary = VocabularyConfig(units=count, subwords=[[unit] for unit in range(count)])
    learned, corpora = sentences(recipe, "train"), (recipe.recordings, *recipe.recordings.more)
    training: Facts = {
        "corpus": f"{' and '.join(corpus.layout for corpus in corpora)}, train split",
        "photos": len(learned),
        "spoken captions": sum(len(target.sentences) for target in learned),
        "image encoder": f"{'token ViT on image units' if recipe.token_vit else 'that of a GIT'}, frozen",
        "steps": recipe.captioner.steps,
    }
    parts = BundleParts(image_modules(recipe), GitDecoder.load(recipe.runs / CAPTIONER), vocabulary, voice)
    export_bundle(parts, recipe.bundle, training, out)


def _unit_count(recipe: Recipe) -> int:
    return len(Clusters.load(Path(recipe.voice) / ENCODER / CLUSTERS))


STAGES = [
    Stage[Recipe]("recordings", RECORDINGS, make_recordings),
    Stage[Recipe]("quantize", UNITS, make_units, (RECORDINGS,)),
    Stage[Recipe]("features", FEATURES, make_features, (UNITS,)),
    Stage[Recipe]("captioner", CAPTIONER, make_captioner, (UNITS, FEATURES), distributed=True),
    Stage[Recipe]("export", BUNDLE, make_bundle, (CAPTIONER,)),
]


def smoke(folder: Path) -> Recipe:
    """Write a random GIT; return a recipe that trains in seconds on the tiny voice and photos of the tiny corpora."""
    sizes = PublishedVision(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    decoder = GitDecoderConfig(40, image_width=16, width=16, layers=1, heads=2, feed_forward=16, max_positions=64)
    Git(GitVision(sizes), GitDecoder(decoder)).save(folder / "git")
    wavs, photos = (sorted(folder.glob(pattern)) for pattern in ("recordings/*.wav", f"data/flickr8k/{PHOTO_FOLDER}/*"))
    rows = [f"{wav.name},{photo.stem}\n" for wav, photo in zip(wavs, photos, strict=True)]
    (folder / "recordings" / "table.csv").write_text("wav,image_id\n" + "".join(rows))
    return Recipe(
        "paper",
        data=folder / "recordings",
        runs=folder / "paper",
        git=str(folder / "git"),
        voice=str(folder / "voice"),
        recordings=RecordingOptions("table", "table.csv", f"../data/flickr8k/{PHOTO_FOLDER}", dev_percent=25),
        max_positions=64,
        captioner=CaptionerTraining(steps=4, warm_up=1, photos=4, captions=1, log_every=2),
    )
