"""Stage `tune`: the text captioner goes on learning together with the last stages of the image backbone.

The backbone knows the 1,000 classes of ImageNet; what captions tell apart, who does what where, it learns here. Its
early part stays as it is, so the maps that it makes are computed once, for several random crops of each photo.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from im2sp.files import replace_whole
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.image_encoders import efficientnet
from im2sp.train.models.git import GitDecoder
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.precision import products
from im2sp.train.training.seeing_translator import SeeingTranslator
from im2sp.train.training.translator import Sentences, TranslatorTraining, train_translator

log = logging.getLogger(__name__)

BATCH = 32


@dataclass(frozen=True)
class TuneTraining(TranslatorTraining):
    """Options of the stage."""

    steps: int = 1000
    learning_rate: float = 3e-4
    warm_up: int = 50
    backbone_share: float = 0.67  # of the learning rate
    more_views: tuple[str, ...] = ("random1", "random2")  # of each photo, to learn from beside those of the recipe


def tune(
    start: Path,
    maps: ImageFeatures,
    backbone: BackboneConfig,
    sentences: dict[str, Sentences],
    options: TuneTraining,
    out: Path,
) -> None:
    """Go on from the text captioner in `start`; `out` gets the tuned one and the weights of the late backbone.

    Args:
        maps: of the early backbone.
        sentences: token sentences of the parts "train" and "dev".
    """
    captioner = GitDecoder.load(start)
    model = SeeingTranslator(captioner.config, ImageBackbone.pretrained(backbone).late, options.backbone_share)
    model.load_partial(captioner, exclude=())
    train_translator(model, maps, sentences["train"], sentences["dev"], options, out)


def features_of(maps: Path, views: tuple[str, ...], backbone: BackboneConfig, tuned: Path, out: Path) -> None:
    """Maps of the early backbone -> the features that the whole one gives, as the stage `encode` would write them.

    Args:
        maps: folder of the maps; of their views, these are taken.
        tuned: weights of the late backbone.
    """
    index, seen = out / "index.json", ImageFeatures(maps)
    image_ids = list(seen.rows)
    description = {
        "image_ids": image_ids,
        "views": list(views),
        "backbone": efficientnet(backbone, tuned).made_by,
    }
    if index.is_file() and json.loads(index.read_text()) == description:
        return
    late = ImageBackbone.pretrained(backbone, tuned).late
    late.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for view in views:
        number, rows = seen.views.index(view), []
        for start in range(0, len(image_ids), BATCH):
            batch = torch.from_numpy(seen.batch(image_ids[start : start + BATCH], number)).float()
            with torch.inference_mode(), products("cpu"):
                features = late(batch.contiguous(memory_format=torch.channels_last))
            rows.append(features.numpy().astype(np.float16))
        with replace_whole(out / f"{view}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(rows))
        log.info("tune: features of %d photos, view %s", len(image_ids), view)
    with replace_whole(index) as temporary:
        temporary.write_text(json.dumps(description))
