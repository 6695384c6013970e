"""What a finished translator says about photos, and how often: what its voice has to say well, part of `resound`.

A table of pronunciations is first mended on sentences of the recordings, when there is no translator. A finished one
says a few thousand sentences again and again, so its sentences tell better which entries matter; and as its subwords
are said by a table of their own (`im2sp.train.data.resounding`), it need not learn anew when an entry is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from im2sp.decoding.vocabulary import Vocabulary
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.pronunciations import Pronunciations, Units, plain
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.models.beam_search import beam_searches
from im2sp.train.models.git import DecoderStep, GitDecoder
from im2sp.train.stages.mend import Mending, Sentence
from im2sp.train.stages.pretrain import BATCH


@dataclass(frozen=True)
class Listening(Mending):
    """Options of it, the section [resound]; without `heard` the table stays as it is."""

    times: int = 6
    ways: int = 14
    missed: float = 0.25
    photos: int = 5000  # that are captioned at most, evenly chosen
    beam: int = 5


def known_sentences(sentences: Iterable[Sentence], table: Pronunciations) -> dict[Units, Sentence]:
    """Sentences by their regular units, without repeats; those that the table cannot say are left out."""
    found = {}
    for sentence in sentences:
        if (units := table.say(sentence.words)) is not None:
            found[plain(units.tolist())] = sentence
    return found


def said_about(
    translator: GitDecoder,
    features: ImageFeatures,
    image_ids: list[str],
    subwords: UnitSubwords,
    known: Mapping[Units, Sentence],
    options: Listening,
) -> list[Sentence]:
    """Which of the known sentences a translator says about photos, and how often; the commonest first.

    Args:
        image_ids: in the order of which every so many photos are captioned, not more than `options.photos`.
        known: by the units that the translator learned.
    """
    chosen = image_ids[:: max(1, -(-len(image_ids) // options.photos))]
    step, vocabulary = DecoderStep(translator), Vocabulary(subwords.vocabulary())
    longest = translator.config.max_positions - 1
    counts: Counter[Units] = Counter()
    for start in range(0, len(chosen), BATCH):
        views = torch.from_numpy(features.batch(chosen[start : start + BATCH], 0)).float()
        with torch.inference_mode():
            searched = beam_searches(step, views[:, None], options.beam, longest)
        for (_, tokens), *_ in searched:
            counts[tuple(vocabulary.decode(tokens).tolist())] += 1
    return [replace(known[said], count=count) for said, count in counts.most_common() if said in known]
