"""Config of a bundle, and what its recipe says -> the model card, README.md in the bundle."""

from __future__ import annotations

import re
from collections.abc import Sequence

from im2sp.bundle import BundleConfig

Facts = dict[str, str | int | float]

_CARD = """# {name} {version}

{description}. An im2sp bundle, read by `im2sp caption PHOTO -o OUT --model THIS_FOLDER`.

{pipeline} No text is produced on the way. {parameters:.1f} million parameters in all graphs.

## Trained on

{training}

## Licence

{license}.

## Measured

Not measured yet.

## What it gets wrong

{limitations}
"""
_GENERAL_LIMITATIONS = (
    "It describes every photo as people described photos like those that it learned from.",
    "Never use it where a wrong description can hurt somebody: crossing a street, medicine, identification.",
)
_MEASURED = re.compile(r"(?<=^## Measured\n\n).*?(?=^## |\Z)", re.M | re.S)


def model_card(config: BundleConfig, limitations: Sequence[str] = ()) -> str:
    """The model card as Markdown, before anything is measured.

    Args:
        limitations: known errors of this model.
    """
    units = config.image_units
    seen = f"{config.image.image_tokens} image tokens"
    if units is not None:
        seen = f"{units.units} image units of {units.bits} bits in all, seen as {seen}"
    return _CARD.format(
        name=config.name,
        version=config.version,
        description=config.description.rstrip("."),
        pipeline=f"A photo becomes {seen}. A decoder of {config.decoder.layers} layers continues them with "
        f"{config.vocabulary.units} kinds of speech units, and a vocoder turns those into a waveform.",
        parameters=sum(config.parameters.values()) / 1e6,
        training=_table(config.training),
        license=(config.license[:1].upper() + config.license[1:]).rstrip("."),
        limitations="\n".join(f"- {sentence}" for sentence in (*limitations, *_GENERAL_LIMITATIONS)),
    )


def with_figures(card: str, figures: Facts) -> str:
    """The card with figures in its section "Measured"."""
    if not _MEASURED.search(card):
        card = f"{card.rstrip()}\n\n## Measured\n\n"
    return _MEASURED.sub(lambda _: f"{_table(figures)}\n\n", card).rstrip() + "\n"


def _table(facts: Facts) -> str:
    rows = "\n".join(f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in facts.items())
    return f"| | |\n|---|---|\n{rows}" if facts else "Not stated."


def _shown(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
