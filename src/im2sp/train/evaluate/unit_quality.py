"""Quality of speech units against aligned phones: purity and mutual information."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from im2sp.speech.audio import HOP

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
    merged: list[str] = []
    counts: list[int] = []
    pending = 0
    for phone, count in zip(phones, samples, strict=True):
        if phone in STRESS_MARKS:
            pending += int(count)
        elif phone in LENGTH_MARKS and merged:
            counts[-1] += int(count)
        else:
            merged.append(phone)
            counts.append(int(count) + pending)
            pending = 0
    middles = np.arange(frames) * HOP + HOP // 2
    which = np.searchsorted(np.cumsum(counts), middles, side="right").clip(max=max(0, len(merged) - 1))
    return np.array(merged, dtype=object)[which]


def unit_quality(clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> UnitQuality:
    """Score pairs of (units int [frames], phones object [frames]); without phones, those scores are 0."""
    units_all, phones_all, runs, frames = [], [], 0, 0
    for units, phones in clips:
        units_all.append(units)
        phones_all.append(phones)
        runs += 1 + int((np.diff(units) != 0).sum())
        frames += len(units)
    unit_names, unit_ids = np.unique(np.concatenate(units_all), return_inverse=True)
    phone_names, phone_ids = np.unique(np.concatenate(phones_all).astype(str), return_inverse=True)
    known = any(phone_names)
    joint = np.zeros((len(phone_names), len(unit_names)))
    np.add.at(joint, (phone_ids, unit_ids), 1)
    joint /= joint.sum()
    phone_share, unit_share = joint.sum(1), joint.sum(0)
    present = joint > 0
    information = (joint[present] * np.log(joint[present] / np.outer(phone_share, unit_share)[present])).sum()
    entropy = -(phone_share * np.log(phone_share)).sum()
    return UnitQuality(
        phone_purity=float(joint.max(0).sum()) if known else 0.0,
        cluster_purity=float(joint.max(1).sum()) if known else 0.0,
        phone_information=float(information / entropy) if entropy > 0 else float(known),
        rate=runs / frames * 50,
        used=len(unit_names),
    )
