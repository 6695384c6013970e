"""Beam search of the text captioner about several photos at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from im2sp.train.data.text_tokenizer import BOS, EOS, FORBIDDEN
from im2sp.train.models.git import DecoderStep, GitDecoder

Hypothesis = tuple[float, list[int]]  # mean log probability, tokens without BOS and EOS


class EnsembleStep:
    """A step of several decoders of one size and vocabulary: the mean of their log-probabilities.

    Keys and values are those of all decoders, layer after layer.
    """

    def __init__(self, decoders: Sequence[GitDecoder]) -> None:
        self.steps = [DecoderStep(decoder) for decoder in decoders]

    def prefix(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Image features -> keys and values of each layer, as those of a decoder."""
        return [pair for step in self.steps for pair in step.decoder.prefix(features)]

    def __call__(self, tokens: Tensor, position: Tensor, *cache: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take what DecoderStep takes; return log-probabilities [B, vocabulary], keys and values."""
        caches = zip(*(part.chunk(len(self.steps)) for part in cache), strict=True)
        found = [step(tokens, position, *part) for step, part in zip(self.steps, caches, strict=True)]
        mean = torch.stack([logits.log_softmax(-1) for logits, *_ in found]).mean(0)
        return mean, torch.cat([keys for _, keys, *_ in found]), torch.cat([values for _, _, values, _ in found])


def beam_searches(
    step: EnsembleStep,
    features: Tensor,
    beam: int,
    longest: int,
    bonus: Tensor | None = None,
    penalty: Tensor | None = None,
) -> list[list[Hypothesis]]:
    """Hypotheses about each photo, the likeliest first.

    Args:
        features: what the decoder's `prefix` takes [P, ...].
        longest: tokens; where no hypothesis about a photo ends in time, the likeliest is cut there.
        bonus: float32 [P, vocabulary], added to the logits from the second token on, until a hypothesis holds a token
            that has one.
        penalty: float32 [vocabulary], subtracted from the logits of the tokens that a hypothesis holds.
    """
    finished: list[list[Hypothesis]] = [[] for _ in features]
    searched = torch.arange(len(features))  # photos whose beam is not full
    prefix = [torch.stack(part) for part in zip(*step.prefix(features), strict=True)]
    spread = prefix  # keys and values of each photo, once for each of its hypotheses
    layers, photos, heads, _, dim = prefix[0].shape
    past = [torch.zeros(layers, photos, heads, 0, dim)] * 2
    tokens, scores = torch.full((photos, 1, 1), BOS), torch.zeros(photos, 1)
    for position in range(longest):
        rows = tokens.shape[1]  # hypotheses about each photo
        logits, *past = step(tokens[:, :, -1].flatten(), torch.tensor([position]), *spread, *past)
        added = bonus[searched] if bonus is not None and position else None
        logits = _adjusted(logits.unflatten(0, (len(searched), rows)), tokens, added, penalty)
        log_probability = logits.log_softmax(-1)
        log_probability[..., list(FORBIDDEN)] = -torch.inf
        best, index = (scores[:, :, None] + log_probability).flatten(1).topk(2 * beam)
        origins, columns = index // logits.shape[-1], index % logits.shape[-1]
        ended = columns == EOS
        for row, place in ended[:, :beam].nonzero().tolist():  # an end that ranks below all of the beam is none
            sentence = tokens[row, origins[row, place], 1:].tolist()
            finished[int(searched[row])].append((float(best[row, place]) / (position + 1), sentence))
        going = torch.tensor([row for row, photo in enumerate(searched.tolist()) if len(finished[photo]) < beam]).long()
        if not len(going):
            break
        unended = ended.int().argsort(dim=1, stable=True)[going, :beam]
        origins, columns, scores = (part[going].gather(1, unended) for part in (origins, columns, best))
        tokens = torch.cat([tokens[going[:, None], origins], columns[:, :, None]], 2)
        past = [part[:, (going[:, None] * rows + origins).flatten()] for part in past]
        if len(going) < len(searched) or rows != beam:
            searched = searched[going]
            spread = [part[:, searched.repeat_interleave(beam)] for part in prefix]
    for row, photo in enumerate(searched.tolist()):
        if not finished[photo]:
            finished[photo] = [(float(scores[row, 0]) / longest, tokens[row, 0, 1:].tolist())]
    return [sorted(hypotheses, key=lambda hypothesis: -hypothesis[0]) for hypotheses in finished]


def _adjusted(logits: Tensor, tokens: Tensor, bonus: Tensor | None, penalty: Tensor | None) -> Tensor:
    """Add a bonus [P, vocabulary] and subtract a penalty [vocabulary], as `beam_searches` describes them.

    Args:
        logits: float32 [P, hypotheses, vocabulary].
        tokens: int64 [P, hypotheses, T], BOS included.
    """
    if bonus is not None:
        added = bonus[:, None].expand_as(logits)
        logits = logits + added * ~added.gather(2, tokens).any(2, keepdim=True)
    if penalty is not None:
        logits = logits - torch.zeros_like(logits).scatter_(2, tokens, 1.0) * penalty
    return logits
