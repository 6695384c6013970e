"""Stage `translate`: image features -> BOS -> speech units, from the text-pre-trained weights or from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from im2sp.errors import Im2SpError
from im2sp.train.data.image_features import PhotoInputs
from im2sp.train.data.sentences import StoredSentences, store_sentences
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.data.unit_table import UnitRow, iterate_unit_tables
from im2sp.train.models.git import GitDecoder, GitDecoderConfig
from im2sp.train.models.saving import CONFIG
from im2sp.train.training.processes import Processes, peers_answer
from im2sp.train.training.translator import TranslatorTraining, train_translator

DISTILLED = "distilled-*"  # unit tables of what the text captioner wrote


def distilled_rows(units: Path) -> Iterator[UnitRow]:
    """Captions of the unit tables that the text captioner wrote; none where the stage `distil` did not run."""
    return iterate_unit_tables(units, "train", DISTILLED) if _has_distilled(units) else iter(())


def _has_distilled(units: Path) -> bool:
    return any(units.glob(f"{DISTILLED}.parquet"))


@peers_answer()
def train_and_keep(
    model: GitDecoder,
    features: PhotoInputs,
    units: Path,
    subwords: UnitSubwords,
    options: TranslatorTraining,
    out: Path,
) -> GitDecoder:
    """Train a translator on the unit tables of a folder: the train part, then what the text captioner wrote."""
    freeze(model, options.frozen)
    longest = model.config.max_positions

    def sentences(name: str, split: str, tables: str = "*") -> StoredSentences:
        return store_sentences(units, split, tables, subwords, longest, out / "sentences" / name)

    with Processes().main_first():
        train, held_out = sentences("train", "train"), sentences("dev", "dev")
        distilled = sentences("distilled", "train", DISTILLED) if _has_distilled(units) else None
    return train_translator(model, features, train, held_out, options, out, distilled)


def freeze(model: GitDecoder, modules: tuple[str, ...]) -> None:
    """Keep these modules as they are.

    Raises:
        Im2SpError: the translator has no module of that name.
    """
    known = dict(model.named_children())
    for name in modules:
        if name not in known:
            raise Im2SpError(f"the translator has no {name!r} to freeze: known are {', '.join(known)}")
        known[name].requires_grad_(False)


def _source(folder: Path, sizes: GitDecoderConfig) -> GitDecoder:
    """The translator in a folder, whose weights those of these sizes can start from.

    Raises:
        Im2SpError: it is missing, or its sizes are others.
    """
    if not (folder / CONFIG).is_file():
        raise Im2SpError(
            f"{folder / CONFIG} is missing: run the stage `pretrain` first (where the recipe has an [image_encoder], "
            f"`im2sp-lab convert git GIT -o {folder.parent}`), or start from scratch"
        )
    source = GitDecoder.load(folder)
    for name in ("width", "layers", "heads", "feed_forward"):
        ours, theirs = getattr(sizes, name), getattr(source.config, name)
        if ours != theirs:
            raise Im2SpError(
                f"{folder} has {name} = {theirs} where [translator] of the recipe has {ours}: make them agree, "
                "or start from scratch"
            )
    return source


def translate(
    units: Path,
    subwords: UnitSubwords,
    features: PhotoInputs,
    config: GitDecoderConfig | None,
    options: TranslatorTraining,
    out: Path,
    pretrained: Path | None,
    same_words: bool = False,
) -> GitDecoder:
    """Train the translator into speech units.

    Args:
        pretrained: folder of the text-pre-trained translator whose weights are transferred, or None for scratch.
        same_words: that translator says speech units already, by these subwords: everything is transferred.
    """
    sizes = dict(config.__dict__) if config else {}
    settings = GitDecoderConfig(
        **(sizes | {"vocabulary_size": subwords.vocabulary_size, "image_width": features.shape[1]})
    )
    torch.manual_seed(options.seed)
    model = GitDecoder(settings)
    if pretrained is not None:
        source = _source(pretrained, settings)
        if same_words:
            model.load_partial(source, exclude=())
        else:
            model.transfer(source)
    return train_and_keep(model, features, units, subwords, options, out)
