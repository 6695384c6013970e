"""Captions of held-out photos by beam search; scores against references, objects and names of things."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from im2sp.train.data.object_names import Synonyms, named_objects
from im2sp.train.data.photo_corpora import PhotoCorpora, names_thing
from im2sp.train.data.photo_units import PhotoArrays
from im2sp.train.evaluate.beam_search import EnsembleStep, beam_searches
from im2sp.train.evaluate.caption_metrics import caption_scores
from im2sp.train.evaluate.chair import chair
from im2sp.train.models.naming import Naming
from im2sp.train.models.unit_captioner import UnitCaptioner

BATCH = 100  # photos
MAX_TOKENS = 24


@torch.inference_mode()
def write_captions(
    models: Sequence[UnitCaptioner],
    decode: Callable[[list[int]], str],
    units: PhotoArrays,
    photos: Sequence[str],
    beam: int,
    naming: Naming | None = None,
    penalty: torch.Tensor | None = None,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, list[str]]:
    """Caption photos by beam search: the hypotheses, the likeliest (by mean log-probability of a token) first.

    Args:
        models: with the same image units.
        decode: tokens -> the words that they say.
        penalty: see `beam_searches`.
    """
    step, written = EnsembleStep(models), {}
    for start in range(0, len(photos), BATCH):
        some = photos[start : start + BATCH]
        seen = units.units(some)
        bonus = naming(seen) if naming else None
        for photo, hypotheses in zip(some, beam_searches(step, seen, beam, max_tokens, bonus, penalty), strict=True):
            written[photo] = [decode(tokens) for _, tokens in hypotheses]
    return written


def dev_report(captions: Mapping[str, str], corpora: PhotoCorpora, synonyms: Synonyms) -> dict[str, dict[str, Any]]:
    """Score captions of each held-out part.

    Objects of COCO photos are those of their instance masks and those that people named.
    """
    report: dict[str, dict[str, Any]] = {}
    for name, references in corpora.dev.items():
        known = {photo: texts for photo, texts in references.items() if photo in captions}
        if not known:
            continue
        said = {photo: captions[photo] for photo in known}
        scores = caption_scores(said, known)
        row = report[name] = {
            "photos": len(known),
            "bleu4": scores.bleu4,
            "cider": scores.cider,
            "different": scores.different_sentences,
        }
        true = {
            photo: {*corpora.objects[photo], *(name for text in texts for name in named_objects(text, synonyms))}
            for photo, texts in known.items()
            if corpora.objects.get(photo)
        }
        if true:
            objects = chair(said, {photo: sorted(names) for photo, names in true.items()}, synonyms)
            row |= {"hit": objects.hit, "chair_i": objects.chair_i, "recall": objects.recall}
    if things := {photo: phrases for photo, phrases in corpora.things.items() if photo in captions}:
        named = [names_thing(captions[photo], phrases) for photo, phrases in things.items()]
        report["things"] = {"photos": len(things), "named": 100 * float(np.mean(named))}
    return report
