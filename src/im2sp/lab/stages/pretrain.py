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
from im2sp.lab.data.text_tokenizer import BOS, EOS, FORBIDDEN, TextTokenizer
from im2sp.lab.models.translator import DecoderStep, Translator, TranslatorConfig
from im2sp.lab.training.processes import Processes, peers_answer
from im2sp.lab.training.translator import Sentences, TranslatorTraining, train_translator

log = logging.getLogger(__name__)


@peers_answer()
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
    with Processes().main_first():
        tokenizer = _tokenizer(captions, out / "tokenizer.json")
    sentences = token_sentences(captions, tokenizer)
    sizes = dict(config.__dict__) if config else {}
    torch.manual_seed(options.seed)
    model = Translator(
        TranslatorConfig(**(sizes | {"vocabulary_size": tokenizer.size, "image_width": features.shape[1]}))
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
            beam_search(step, torch.from_numpy(np.array(features.get(image_id)))[None].float(), beam, longest)[0][1]
        )
        for image_id in image_ids
    }


def beam_search(step: DecoderStep, views: torch.Tensor, beam: int, longest: int) -> list[tuple[float, list[int]]]:
    """Hypotheses about a photo, the likeliest first: (mean log probability, tokens without BOS and EOS).

    Args:
        views: image features [V, image_tokens, image_width]; the log probabilities of all views are averaged.
        longest: tokens; where no hypothesis ends in time, the likeliest is cut there.
    """
    pairs = step.translator.prefix(views)
    keys, values = torch.stack([k for k, _ in pairs]), torch.stack([v for _, v in pairs])
    layers, count, heads, _, dim = keys.shape
    past_keys = past_values = torch.zeros(layers, count, heads, 0, dim)
    tokens, scores, finished = torch.tensor([[BOS]]), torch.zeros(1), []
    for position in range(longest):
        rows = len(tokens)  # hypotheses; each is there once for each view
        logits, past_keys, past_values, _ = step(
            tokens[:, -1].repeat_interleave(count),
            torch.tensor([position]),
            keys.repeat(1, rows, 1, 1, 1),
            values.repeat(1, rows, 1, 1, 1),
            past_keys,
            past_values,
        )
        log_probability = logits.log_softmax(-1).unflatten(0, (rows, count)).mean(1)
        log_probability[:, list(FORBIDDEN)] = -torch.inf
        total = scores[:, None] + log_probability
        best, index = total.flatten().topk(2 * beam)
        origins, columns = index // total.shape[1], index % total.shape[1]
        ended = columns == EOS
        done = ended & (torch.arange(2 * beam) < beam)  # an end that ranks below all of the beam is none
        for row, score in zip(origins[done].tolist(), best[done].tolist(), strict=True):
            finished.append((score / (position + 1), tokens[row, 1:].tolist()))
        origins, columns, scores = origins[~ended][:beam], columns[~ended][:beam], best[~ended][:beam]
        tokens = torch.cat([tokens[origins], columns[:, None]], 1)
        kept = (origins[:, None] * count + torch.arange(count)).flatten()
        past_keys, past_values = past_keys[:, kept], past_values[:, kept]
        if len(finished) >= beam:
            break
    if not finished:
        return [(float(scores[0]) / longest, tokens[0, 1:].tolist())]
    return sorted(finished, key=lambda hypothesis: -hypothesis[0])


def save_captions(captions: dict[str, str], path: Path) -> None:
    """Write {image_id: sentence} as JSON."""
    with replace_whole(path) as temporary:
        temporary.write_text(json.dumps(captions, indent=0))
