"""Captions and the true objects of their photos in; hit rate, CHAIR and recall of objects out.

CHAIR (Rohrbach et al. 2018, "Object Hallucination in Image Captioning") counts the objects that a caption names and
that are not in the photo. Objects and their synonyms are those of COCO.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from im2sp.errors import Im2SpError, reason
from im2sp.train.data.object_names import Synonyms, named_objects, read_synonyms


@dataclass(frozen=True)
class ChairScores:
    """How well captions name the objects of their photos, in per cent."""

    hit: float  # captions that name an object of their photo
    chair_i: float  # named objects that are not in the photo
    chair_s: float  # captions that name an object that is not in the photo
    recall: float  # objects of the photos that are named
    captions: int  # about photos with known objects


@dataclass(frozen=True)
class ObjectLabels:
    """Objects of photos (file name -> names), and what captions call them."""

    objects: Mapping[str, Sequence[str]]
    synonyms: Synonyms

    @classmethod
    def read(cls, folder: Path) -> ObjectLabels:
        """Read objects.json and object_synonyms.txt. Raises Im2SpError when one is missing or malformed."""
        path = folder / "objects.json"
        try:
            objects = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
        except (OSError, msgspec.MsgspecError) as error:
            raise Im2SpError(f"the objects of photos {path} cannot be read ({reason(error)})") from error
        return cls(objects, read_synonyms(folder / "object_synonyms.txt"))


def chair(captions: Mapping[str, str], objects: Mapping[str, Sequence[str]], synonyms: Synonyms) -> ChairScores:
    """Score captions (photo -> sentence) against the objects of their photos (photo -> names).

    Photos whose objects are not known are left out. Raises Im2SpError when that leaves none.
    """
    true = {photo: set(objects[photo]) for photo in captions if objects.get(photo)}
    if not true:
        raise Im2SpError("the objects of none of the photos are known: give objects of the same photos")
    counts: Counter[str] = Counter()
    for photo, present in true.items():
        named = named_objects(captions[photo], synonyms)
        absent = [name for name in named if name not in present]
        counts.update(
            hit=len(absent) < len(named),
            mentions=len(named),
            absent=len(absent),
            hallucinating=bool(absent),
            present=len(present),
            recalled=len(present.intersection(named)),
        )
    return ChairScores(
        hit=100 * counts["hit"] / len(true),
        chair_i=100 * counts["absent"] / max(1, counts["mentions"]),
        chair_s=100 * counts["hallucinating"] / len(true),
        recall=100 * counts["recalled"] / counts["present"],
        captions=len(true),
    )
