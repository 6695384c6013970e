"""Stage `semantic-units`: cached image features and a trained captioner -> a quantiser, and the units of every photo.

The captioner whose eyes the quantiser has is the finished translator, not the text captioner that it started from:
its projection was trained on for speech, so the centres lie closest where its sentences differ, and features that are
quantised without loss give exactly its logits. So the translator on units begins where it ended, not beside it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from im2sp.arrays import IntArray
from im2sp.bundle import ImageTokenizer
from im2sp.errors import Im2SpError
from im2sp.files import replace_whole, sha256_of
from im2sp.image.unit_table import write_unit_table
from im2sp.train.data.image_features import ImageFeatures
from im2sp.train.data.unit_features import StoredUnits, unit_table_file
from im2sp.train.models.git import GitDecoder
from im2sp.train.models.saving import CONFIG, WEIGHTS
from im2sp.train.models.semantic_units import SemanticUnits

log = logging.getLogger(__name__)

STAGE = "semantic-units"
REPORT = "report.json"
BATCH = 256  # photos


@dataclass(frozen=True)
class SemanticUnitsOptions:
    """How fine the units are."""

    levels: int = 7  # codes a cell
    size: int = 1024  # centres of each codebook
    cells: int = 0  # of photos, drawn by the seed, from which centres are learned; 0 for all


def make_semantic_units(
    feature_folders: tuple[Path, ...],
    held_out: list[str],
    captioner: Path,
    options: SemanticUnitsOptions,
    seed: int,
    out: Path,
) -> SemanticUnits:
    """Fit the quantiser, write `report.json` and, below `units`, a table for each view; goes on where it stopped.

    Args:
        feature_folders: of cached features; each gets a folder of tables of the same name.
        held_out: image ids that are not learned from, but reported on.
        captioner: folder of the translator whose projection and norm the quantiser has.

    Raises:
        Im2SpError: there is no such translator, or what was begun is of another one or of other options.
    """
    features = ImageFeatures(*feature_folders)
    if (out / CONFIG).is_file():
        model = load_semantic_units(out, captioner)
        if (model.config.levels, model.config.size) != (options.levels, options.size):
            raise Im2SpError(f"{out} holds units of other levels or sizes than the recipe's: move it away first")
    else:
        model = _fit(features, held_out, _seeing(captioner), options, seed, out)
    tokenizer = semantic_tokenizer(model, features.shape[0], out)
    for folder in feature_folders:
        for view in range(len(features.views)):
            path = unit_table_file(out / "units" / folder.name, features.views[view])
            if not path.is_file():
                count = write_unit_table(path, tokenizer, _rows(model, ImageFeatures(folder), view))
                log.info("%s: units of %d photos, %d bits each", path, count, tokenizer.bits)
    return model


def load_semantic_units(folder: Path, captioner: Path) -> SemanticUnits:
    """The quantiser that the stage made.

    Raises:
        Im2SpError: it is missing, or has the projection of another translator than the one in the folder `captioner`.
    """
    if not (folder / CONFIG).is_file():
        raise Im2SpError(f"{folder / CONFIG} is missing: run the stage `{STAGE}` first")
    model, seeing = SemanticUnits.load(folder), _seeing(captioner)
    if not model.sees_like(seeing):
        raise Im2SpError(
            f"the image units in {folder} were made for another translator than the one in {captioner}: "
            f"move {folder} away and run the stage `{STAGE}` again"
        )
    return model


def semantic_tokenizer(model: SemanticUnits, cells: int, folder: Path) -> ImageTokenizer:
    """What the tables say of their units. The checksum is that of the weights: cached features are not to the bit those
    of a bundle's graph, so a bundle does not take these units for its own."""
    return ImageTokenizer(
        kind="semantic",
        tokenizer=f"{folder.parent.name}-semantic",
        checksum=sha256_of(folder / WEIGHTS),
        grid=grid_of(cells),
        codes=model.config.levels,
        codebook_size=model.config.size,
    )


def grid_of(cells: int) -> tuple[int, int]:
    """Rows and columns of a square grid of cells."""
    side = round(cells**0.5)
    return side, side


def stored_semantic_units(
    model: SemanticUnits, cells: int, folder: Path, feature_folders: tuple[Path, ...], views: tuple[str, ...]
) -> StoredUnits:
    """The stored units of the photos of some feature folders."""
    tokenizer = semantic_tokenizer(model, cells, folder)
    tables = [folder / "units" / features.name for features in feature_folders]
    return StoredUnits(tables, views, tokenizer, STAGE)


def _seeing(captioner: Path) -> GitDecoder:
    if not (captioner / WEIGHTS).is_file():
        raise Im2SpError(f"{captioner / WEIGHTS} is missing: run the stage `translate` first")
    return GitDecoder.load(captioner)


def _fit(
    features: ImageFeatures,
    held_out: list[str],
    captioner: GitDecoder,
    options: SemanticUnitsOptions,
    seed: int,
    out: Path,
) -> SemanticUnits:
    model = SemanticUnits.like(captioner, options.levels, options.size)
    hidden = set(held_out)
    learned = [image_id for image_id in features.rows if image_id not in hidden]
    views = range(len(features.views))
    cells = np.concatenate([features.batch(learned, view) for view in views]).reshape(-1, features.shape[1])
    if 0 < options.cells < len(cells):
        cells = cells[np.random.default_rng(seed).choice(len(cells), options.cells, replace=False)]
    missing = model.fit(cells, seed)
    report = {
        "photos": len(learned),
        "cells": len(cells),
        "views": features.views,
        "bits": features.shape[0] * options.levels * (options.size - 1).bit_length(),
        "missing": [round(share, 4) for share in missing],
    }
    if known := [image_id for image_id in held_out if image_id in features.rows]:
        seen = torch.from_numpy(features.batch(known)).float()
        report["missing_held_out"] = round(model.missing(seen), 4)
    with replace_whole(out / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=1))
    log.info("%s: %s", STAGE, report)
    model.save(out)
    return model


@torch.inference_mode()
def _rows(model: SemanticUnits, features: ImageFeatures, view: int) -> Iterator[tuple[str, IntArray]]:
    ids = list(features.rows)
    for start in range(0, len(ids), BATCH):
        chunk = ids[start : start + BATCH]
        units = model(torch.from_numpy(features.batch(chunk, view)).float()).numpy()
        yield from zip(chunk, units, strict=True)
