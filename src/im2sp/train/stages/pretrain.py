"""Stage `pretrain`: image features -> captions as text, which the translator starts from."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from im2sp.files import replace_whole
from im2sp.train.data.flickr8k import Caption
from im2sp.train.data.image_features import ImageFeatures, PhotoInputs
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.models.beam_search import beam_searches
from im2sp.train.models.git import DecoderStep, GitDecoder, GitDecoderConfig
from im2sp.train.training.processes import Processes, peers_answer
from im2sp.train.training.translator import Sentences, TranslatorTraining, input_of, train_translator

log = logging.getLogger(__name__)

BATCH = 25  # photos whose captions are written at once


@peers_answer()
def pretrain(
    captions: list[Caption],
    features: ImageFeatures,
    config: GitDecoderConfig | None,
    options: TranslatorTraining,
    out: Path,
) -> tuple[GitDecoder, TextTokenizer]:
    """Train the text captioner on the train part; `out` gets its weights and `tokenizer.json`.

    Args:
        config: sizes; its vocabulary size is replaced by the tokenizer's. None: the defaults.
    """
    with Processes().main_first():
        tokenizer = _tokenizer(captions, out / "tokenizer.json")
    sentences = token_sentences(captions, tokenizer)
    sizes = dict(config.__dict__) if config else {}
    torch.manual_seed(options.seed)
    model = GitDecoder(
        GitDecoderConfig(**(sizes | {"vocabulary_size": tokenizer.size, "image_width": features.shape[1]}))
    )
    return train_translator(model, features, sentences["train"], sentences["dev"], options, out), tokenizer


def token_sentences(captions: list[Caption], tokenizer: TextTokenizer) -> dict[str, Sentences]:
    """Token sentences of the photos of each part, "train" and "dev"."""
    sentences: dict[str, Sentences] = {"train": {}, "dev": {}}
    for caption in captions:
        sentences[caption.split].setdefault(caption.image_id, []).append(tokenizer.encode(caption.text))
    return sentences


def _tokenizer(captions: list[Caption], path: Path) -> TextTokenizer:
    if path.is_file():
        return TextTokenizer.load(path)
    tokenizer = TextTokenizer.train(c.text for c in captions if c.split == "train")
    tokenizer.save(path)
    return tokenizer


@torch.inference_mode()
def write_captions(
    model: GitDecoder,
    tokenizer: TextTokenizer,
    features: PhotoInputs,
    image_ids: list[str],
    beam: int = 3,
    longest: int = 24,
) -> dict[str, str]:
    """Text captions by beam search (mean log probability), for measuring the ceiling of what the encoder sees."""
    step, written = DecoderStep(model), {}
    for start in range(0, len(image_ids), BATCH):
        some = image_ids[start : start + BATCH]
        views = input_of(features.batch(some))[:, None]
        for image_id, hypotheses in zip(some, beam_searches(step, views, beam, longest), strict=True):
            written[image_id] = tokenizer.decode(hypotheses[0][1])
    return written


def save_captions(captions: dict[str, str], path: Path) -> None:
    """Write {image_id: sentence} as JSON."""
    with replace_whole(path) as temporary:
        temporary.write_text(json.dumps(captions, indent=0))
