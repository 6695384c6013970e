"""Quality of speech units against aligned phones: purity and mutual information."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from im2sp.speech.audio import HOP, UNIT_RATE

STRESS_MARKS = frozenset("ˈˌ")  # belong to the phone that follows
LENGTH_MARKS = frozenset("ːˑ")  # belong to the phone before


@dataclass(frozen=True)
class UnitQuality:
    """Scores of units against phones over frames (HuBERT paper, section IV-C)."""

    phone_purity: float  # accuracy of naming the phone from the unit, each unit standing for its most frequent phone
    cluster_purity: float  # the reverse
    phone_information: float  # mutual information of phone and unit over the entropy of phones (PNMI)
    rate: float  # units a second after removing repeats
    used: int  # units that occur


def frame_phones(phones: Sequence[str], samples: np.ndarray, frames: int) -> np.ndarray:
    """Phone at the middle of each frame, object [frames]; stress and length marks belong to their phone.

    Without phones, every frame has "".
    """
    if not len(phones):
        return np.full(frames, "", dtype=object)
    names = np.array(phones, dtype=object)
    for place, phone in enumerate(phones):
        if phone in LENGTH_MARKS and place:
            names[place] = names[place - 1]
    for place in range(len(phones) - 2, -1, -1):
        if phones[place] in STRESS_MARKS:
            names[place] = names[place + 1]
    middles = np.arange(frames) * HOP + HOP // 2
    return names[np.searchsorted(np.cumsum(samples), middles, side="right").clip(max=len(names) - 1)]


def unit_quality(clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> UnitQuality:
    """Score pairs of (units int [frames], phones object [frames]); without phones, those scores are 0."""
    pairs = list(clips)
    units, phones = (np.concatenate(part) for part in zip(*pairs, strict=True))
    runs = sum(1 + np.count_nonzero(np.diff(one)) for one, _ in pairs)
    table = contingency_matrix(phones.astype(str), units)
    known, spread = any(phones), entropy(table.sum(1))
    return UnitQuality(
        phone_purity=float(table.max(0).sum() / len(units)) if known else 0.0,
        cluster_purity=float(table.max(1).sum() / len(units)) if known else 0.0,
        phone_information=float(mutual_info_score(None, None, contingency=table) / spread) if spread else float(known),
        rate=runs / len(units) * UNIT_RATE,
        used=table.shape[1],
    )
