"""Stage `pretrain`: image features -> captions as text, which the translator starts from."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch

from im2sp.files import replace_whole
from im2sp.lab.data.flickr8k import Caption
from im2sp.lab.data.image_features import ImageFeatures
from im2sp.lab.data.text_tokenizer import BOS, EOS, TextTokenizer
from im2sp.lab.models.translator import DecoderStep, Translator, TranslatorConfig
from im2sp.lab.training.translator import Sentences, TranslatorTraining, train_translator

log = logging.getLogger(__name__)


def pretrain(
    captions: list[Caption],
    features: ImageFeatures,
    config: TranslatorConfig | None,
    options: TranslatorTraining,
    out: Path,
) -> tuple[Translator, TextTokenizer]:
    """Train the text captioner on the train part; `out` gets its weights and `tokenizer.json`.

    Args:
        config: sizes; its vocabulary size is replaced by the tokenizer's. None: the defaults.
    """
    path = out / "tokenizer.json"
    if path.is_file():
        tokenizer = TextTokenizer.load(path)
    else:
        tokenizer = TextTokenizer.train(c.text for c in captions if c.split == "train")
        tokenizer.save(path)
    sentences: dict[str, Sentences] = {"train": {}, "dev": {}}
    for caption in captions:
        sentences[caption.split].setdefault(caption.image_id, []).append(tokenizer.encode(caption.text))
    sizes = dict(config.__dict__) if config else {}
    model = Translator(
        TranslatorConfig(**(sizes | {"vocabulary_size": tokenizer.size, "image_width": features.shape[1]}))
    )
    return train_translator(model, features, sentences["train"], sentences["dev"], options, out), tokenizer


@torch.inference_mode()
def write_captions(
    model: Translator,
    tokenizer: TextTokenizer,
    features: ImageFeatures,
    image_ids: list[str],
    beam: int = 3,
    longest: int = 24,
) -> dict[str, str]:
    """Text captions by beam search (mean log probability), for measuring the ceiling of what the encoder sees."""
    step = DecoderStep(model)
    return {
        image_id: tokenizer.decode(
            _beam(step, torch.from_numpy(np.array(features.get(image_id)))[None].float(), beam, longest)
        )
        for image_id in image_ids
    }


def _beam(step: DecoderStep, image: torch.Tensor, beam: int, longest: int) -> list[int]:
    pairs = step.translator.prefix(image)
    keys, values = torch.stack([k for k, _ in pairs]), torch.stack([v for _, v in pairs])
    layers, _, heads, _, dim = keys.shape
    past_keys = past_values = torch.zeros(layers, 1, heads, 0, dim)
    tokens, scores, finished = torch.tensor([[BOS]]), torch.zeros(1), []
    for position in range(longest):
        logits, past_keys, past_values, _ = step(
            tokens[:, -1], torch.tensor([position]), keys, values, past_keys, past_values
        )
        log_probability = logits.log_softmax(-1)
        log_probability[:, [0, BOS, 3]] = -torch.inf  # pad, BOS and unknown words are not for saying
        total = scores[:, None] + log_probability
        best, index = total.flatten().topk(2 * beam)
        rows, columns = index // total.shape[1], index % total.shape[1]
        ended = columns == EOS
        for row, score in zip(rows[ended][:beam].tolist(), best[ended][:beam].tolist(), strict=True):
            finished.append((score / (position + 1), tokens[row, 1:].tolist()))
        rows, columns, scores = rows[~ended][:beam], columns[~ended][:beam], best[~ended][:beam]
        tokens = torch.cat([tokens[rows], columns[:, None]], 1)
        past_keys, past_values = past_keys[:, rows], past_values[:, rows]
        if len(finished) >= beam:
            break
    return max(finished)[1] if finished else tokens[0, 1:].tolist()


def save_captions(captions: dict[str, str], path: Path) -> None:
    """Write {image_id: sentence} as JSON."""
    with replace_whole(path) as temporary:
        temporary.write_text(json.dumps(captions, indent=0))
