"""What speech units tell about aligned phones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.metrics import homogeneity_score

from im2sp.speech.audio import HOP

STRESS_MARKS = frozenset("ˈˌ")  # belong to the phone that follows
LENGTH_MARKS = frozenset("ːˑ")  # belong to the phone before


def frame_phones(phones: Sequence[str], samples: np.ndarray, frames: int) -> np.ndarray:
    """Phone at the middle of each frame, object [frames]; stress and length marks belong to their phone."""
    names = np.array(phones, dtype=object)
    for place, phone in enumerate(phones):
        if phone in LENGTH_MARKS and place:
            names[place] = names[place - 1]
    for place in range(len(phones) - 2, -1, -1):
        if phones[place] in STRESS_MARKS:
            names[place] = names[place + 1]
    middles = np.arange(frames) * HOP + HOP // 2
    return names[np.searchsorted(np.cumsum(samples), middles, side="right").clip(max=len(names) - 1)]


def phone_information(clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mutual information of phone and unit over the entropy of phones, by frames (PNMI; HuBERT paper, section IV-C).

    Args:
        clips: pairs of (units int [frames], phones object [frames]).
    """
    units, phones = (np.concatenate(part) for part in zip(*clips, strict=True))
    return float(homogeneity_score(phones.astype(str), units))
