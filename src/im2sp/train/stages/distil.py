"""Stage `distil`: the text captioner writes sentences about photos, and the voice speaks them for the translator.

Sequence-level distillation (Kim and Rush, 2016): what a model says is more regular than what five people write, so it
is easier to learn, and it costs no annotation, so photos without captions teach as well. Of a photo that people
described, those hypotheses are kept that agree most with their captions (CIDEr-D); of any other, the likeliest. A
hypothesis that says something twice ("at a table at a table") is kept only where there is no other.

A small captioner likes to say what is true of many photos. Guidance (Kornblith et al., "Guiding image captioning models
toward more specific captions", 2023) looks for what is likelier about this photo than about the mean of all: the mean
log probability of a photo's views is `1 + guidance` times counted, that of the mean features `-guidance` times. The
translator learns from such sentences and needs no guidance itself.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from im2sp.files import replace_whole
from im2sp.train.data.flickr8k import Caption
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.evaluate.words import normalise_words
from im2sp.train.models.beam_search import beam_searches
from im2sp.train.models.git import DecoderStep, GitDecoder
from im2sp.train.stages.pretrain import BATCH

log = logging.getLogger(__name__)

FIRST_INDEX = 5  # k of the first written sentence of a photo: people wrote 0 to 4
SAVE_EVERY = 500  # photos


@dataclass(frozen=True)
class Distillation:
    """Options of the stage."""

    sentences: int = 2  # of each photo with human captions
    sentences_unlabelled: int = 1  # of each photo without
    beam: int = 5
    longest: int = 24  # words
    guidance: float = 0.0  # how far log probabilities are moved away from those of no photo in particular
    seed: int = 0


def distil(
    model: GitDecoder,
    tokenizer: TextTokenizer,
    features: ImageFeatures,
    references: dict[str, list[str]],
    unlabelled: list[str],
    options: Distillation,
    out: Path,
) -> list[Caption]:
    """Sentences about photos in a fixed random order, as captions of the train part; goes on after an interruption.

    Args:
        references: what people wrote about each photo of the train part.
        unlabelled: image ids of photos that nobody described.
        out: JSON lines of image id and hypotheses, likeliest first; what is there is not written again.
    """
    common = mean_features(features, list(references)) if options.guidance else None
    found = _hypotheses(model, tokenizer, features, [*references, *unlabelled], common, options, out)
    hypotheses = {
        image_id: [text for text in texts if not says_twice(text)] or texts for image_id, texts in found.items()
    }
    chosen = _most_agreed({i: hypotheses[i] for i in references}, references, options.sentences)
    chosen |= {i: hypotheses[i][: options.sentences_unlabelled] for i in unlabelled}
    captions = [
        Caption(image_id, FIRST_INDEX + k, text, "train")
        for image_id, texts in chosen.items()
        for k, text in enumerate(texts)
    ]
    random.Random(options.seed).shuffle(captions)
    return captions


def says_twice(text: str) -> bool:
    """Whether a sentence says something and at once the same again; two words and more also with one word between."""
    words = normalise_words(text).split()
    for first in range(len(words)):
        for count in range(1, (len(words) - first) // 2 + 1):
            said, after = words[first : first + count], first + count
            if said == words[after : after + count] or (count > 1 and said == words[after + 1 : after + 1 + count]):
                return True
    return False


def write_sentences(captions: list[Caption], path: Path) -> None:
    """Keep chosen sentences as JSON lines."""
    with replace_whole(path) as temporary:
        temporary.write_text("".join(json.dumps(asdict(caption)) + "\n" for caption in captions), encoding="utf-8")


def read_sentences(path: Path) -> list[Caption]:
    """What `write_sentences` wrote; none where there is no file."""
    if not path.is_file():
        return []
    return [Caption(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def read_hypotheses(path: Path) -> dict[str, list[str]]:
    """What the captioner may say about each photo, likeliest first; nothing where there is no file."""
    if not path.is_file():
        return {}
    entries = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {entry["image_id"]: entry["texts"] for entry in entries}


def _hypotheses(
    model: GitDecoder,
    tokenizer: TextTokenizer,
    features: ImageFeatures,
    image_ids: Iterable[str],
    common: torch.Tensor | None,
    options: Distillation,
    out: Path,
) -> dict[str, list[str]]:
    """What the captioner may say about each photo, likeliest first; what `out` has is not written again.

    Args:
        common: image features float32 [image_tokens, image_width] that guidance leads away from; None without it.
    """
    found = read_hypotheses(out)
    step, missing = DecoderStep(model), [image_id for image_id in image_ids if image_id not in found]
    count, weights = len(features.views), None
    if common is not None:
        weights = torch.tensor([(1 + options.guidance) / count] * count + [-options.guidance])
    for start in range(0, len(missing), SAVE_EVERY):
        for first in range(start, min(start + SAVE_EVERY, len(missing)), BATCH):
            some = missing[first : min(first + BATCH, start + SAVE_EVERY)]
            views = [torch.from_numpy(features.batch(some, view)).float() for view in range(count)]
            if common is not None:
                views.append(common.expand_as(views[0]))
            with torch.inference_mode():
                searched = beam_searches(step, torch.stack(views, 1), options.beam, options.longest, weights)
            for image_id, ranked in zip(some, searched, strict=True):
                texts = dict.fromkeys(tokenizer.decode(tokens) for _, tokens in ranked)
                found[image_id] = [text for text in texts if text]
        with replace_whole(out) as temporary:
            lines = (json.dumps({"image_id": image_id, "texts": texts}) for image_id, texts in found.items())
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        log.info("sentences for %d photos, %d to go", len(found), max(0, len(missing) - start - SAVE_EVERY))
    return found


def mean_features(features: ImageFeatures, image_ids: list[str]) -> torch.Tensor:
    """What photos have in common: float32 [image_tokens, image_width], their mean in the first view."""
    sums = [
        torch.from_numpy(features.batch(image_ids[start : start + SAVE_EVERY])).float().sum(0)
        for start in range(0, len(image_ids), SAVE_EVERY)
    ]
    return torch.stack(sums).sum(0) / len(image_ids)


def _most_agreed(
    hypotheses: dict[str, list[str]], references: dict[str, list[str]], count: int
) -> dict[str, list[str]]:
    """The `count` hypotheses of each photo with the highest CIDEr-D, best first; of equal ones, the likelier first."""
    from im2sp.train.evaluate.caption_metrics import cider_of_each

    flat = {f"{image_id}#{k}": text for image_id, texts in hypotheses.items() for k, text in enumerate(texts)}
    scores = cider_of_each(flat, {name: references[name.rpartition("#")[0]] for name in flat})
    ranked = {}
    for image_id, texts in hypotheses.items():
        order = sorted(range(len(texts)), key=lambda k: -scores[f"{image_id}#{k}"])
        ranked[image_id] = [texts[k] for k in order[:count]]
    return ranked
