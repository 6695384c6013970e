"""Beam search of the text captioner about several photos at once, each seen in several views."""

from __future__ import annotations

import torch
from torch import Tensor

from im2sp.train.data.text_tokenizer import BOS, EOS, FORBIDDEN
from im2sp.train.models.git import DecoderStep

Hypothesis = tuple[float, list[int]]  # mean log probability, tokens without BOS and EOS


def beam_search(step: DecoderStep, views: Tensor, beam: int, longest: int) -> list[Hypothesis]:
    """Hypotheses about one photo, as `beam_searches`. views: image features [V, image_tokens, image_width]."""
    return beam_searches(step, views[None], beam, longest)[0]


def beam_searches(
    step: DecoderStep, views: Tensor, beam: int, longest: int, weights: Tensor | None = None
) -> list[list[Hypothesis]]:
    """Hypotheses about each photo, the likeliest first.

    Args:
        views: image features [P, V, image_tokens, image_width].
        longest: tokens; where no hypothesis about a photo ends in time, the likeliest is cut there.
        weights: float32 [V], by which the log probabilities of a photo's views are added up before they are normalised
            again; a negative one leads away from what its view says. None: the plain mean.
    """
    photos, count = views.shape[:2]
    finished: list[list[Hypothesis]] = [[] for _ in range(photos)]
    searched = list(range(photos))  # whose beam is not full
    pairs = step.decoder.prefix(views.flatten(0, 1))
    keys, values = torch.stack([key for key, _ in pairs]), torch.stack([value for _, value in pairs])
    layers, _, heads, _, dim = keys.shape
    past_keys = past_values = torch.zeros(layers, photos * count, heads, 0, dim)
    tokens, scores = torch.full((photos, 1, 1), BOS), torch.zeros(photos, 1)
    spread_keys, spread_values = keys, values  # of each photo, once for each hypothesis
    for position in range(longest):
        rows = tokens.shape[1]  # hypotheses about each photo; each is there once for each view
        last = tokens[:, :, -1].flatten().repeat_interleave(count)
        logits, past_keys, past_values, _ = step(
            last, torch.tensor([position]), spread_keys, spread_values, past_keys, past_values
        )
        log_probability = _together(logits.log_softmax(-1).unflatten(0, (len(searched), rows, count)), weights)
        log_probability[..., list(FORBIDDEN)] = -torch.inf
        best, index = (scores[:, :, None] + log_probability).flatten(1).topk(2 * beam)
        origins, columns = index // logits.shape[1], index % logits.shape[1]
        ended = columns == EOS
        for photo, place in (ended[:, :beam]).nonzero().tolist():  # an end that ranks below all of the beam is none
            said = tokens[photo, origins[photo, place], 1:].tolist()
            finished[searched[photo]].append((float(best[photo, place]) / (position + 1), said))
        going = torch.tensor(
            [row for row, photo in enumerate(searched) if len(finished[photo]) < beam], dtype=torch.long
        )
        if not len(going):
            break
        unended = ended.int().argsort(dim=1, stable=True)[going, :beam]
        origins, columns = origins[going].gather(1, unended), columns[going].gather(1, unended)
        scores = best[going].gather(1, unended)
        tokens = torch.cat([tokens[going[:, None], origins], columns[:, :, None]], 2)
        kept = _rows(going, origins, rows, count)
        past_keys, past_values = past_keys[:, kept], past_values[:, kept]
        if len(going) < len(searched) or rows != origins.shape[1]:
            searched = [searched[row] for row in going.tolist()]
            wanted = _rows(torch.tensor(searched), torch.zeros_like(origins), 1, count)
            spread_keys, spread_values = keys[:, wanted], values[:, wanted]
    for row, photo in enumerate(searched):
        if not finished[photo]:
            finished[photo] = [(float(scores[row, 0]) / longest, tokens[row, 0, 1:].tolist())]
    return [sorted(hypotheses, key=lambda hypothesis: -hypothesis[0]) for hypotheses in finished]


def _together(log_probability: Tensor, weights: Tensor | None) -> Tensor:
    """Log probabilities [P, H, V, vocabulary] -> [P, H, vocabulary]."""
    if weights is None:
        return log_probability.mean(2)
    return torch.einsum("phvt,v->pht", log_probability, weights).log_softmax(-1)


def _rows(photos: Tensor, hypotheses: Tensor, each: int, count: int) -> Tensor:
    """Where the views of hypotheses [P, H] lie in rows ordered by photo, by its `each` hypotheses, by view."""
    places = photos[:, None] * each + hypotheses
    return (places[:, :, None] * count + torch.arange(count)).flatten()
