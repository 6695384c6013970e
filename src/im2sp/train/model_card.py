"""Config of a bundle -> its model card (README.md in the bundle): what the model is and what it gets wrong."""

from __future__ import annotations

from pathlib import Path

from im2sp.bundle import BundleConfig
from im2sp.files import MODEL_CARD

Facts = dict[str, str | int | float]

_CARD = """# {name} {version}

{description}. An im2sp bundle, read by `im2sp caption PHOTO -o OUT`; the format is in the project's docs/bundle.md.

A photo becomes {image_tokens} image tokens, a decoder of {layers} layers continues them with speech units
({units} of them, found without text by k-means on the features of a small HuBERT and the cepstra of the sound), and a
vocoder turns the units into a waveform. No text is produced on the way. {parameters:.1f} million parameters in all (the
image encoder and the decoder share their transformer's weights, which are stored in both files).

## Trained on

{training}

## Licence

{license}. The photos of Flickr8k may be used for research only, and the weights that learned from them inherit that
doubt: treat this bundle as a research model. The synthetic voice (Piper en_US-joe-medium) that spoke the training
captions is CC0; the image backbone (EfficientNet-Lite2, ImageNet) is Apache-2.0.

## Measured

{quality}

## What it gets wrong

- It learned from 6,000 photos of people, dogs and sports. Shown anything else (food, documents, screens, maps,
  buildings without people) it still says a sentence about people, dogs or sports, in the same sure voice. {doubt}
- Counts, colours of clothes, small objects and who does what to whom are often wrong; text in pictures is not read.
- Many words come out slurred (see the word error rate above); some sentences repeat themselves or break off.
- It guesses age and gender from looks, as its training captions did. Do not rely on either.
- Never use it where a wrong description can hurt somebody: crossing a street, medicine, identification.
"""

_CORPUS_CARD = """# {name} {version}

{description}. An im2sp bundle, read by `im2sp caption PHOTO -o OUT --model THIS_FOLDER`.

A photo becomes {image_tokens} image tokens, a decoder of {layers} layers continues them with speech units ({units} of
them), and a vocoder turns the units into a waveform. No text is produced on the way. {parameters:.1f} million
parameters in all. Image encoder, speech encoder and vocoder are published checkpoints, converted and not trained on.

## Trained on

{training}

## Licence

{license}.

## Measured

{quality}

## What it gets wrong

It says of every photo what people said of photos like those it learned from, and it does not know when it does not
know. Never use it where a wrong description can hurt somebody: crossing a street, medicine, identification.
"""

_UNCALIBRATED = "It does not\n  know when it does not know."
_CALIBRATED = """Blank
  pictures, screens and scans are told from photos by its confidence, though, and withheld with
  `--min-confidence {:g}`; photos of things that it has not learned are not always."""


def model_card(config: BundleConfig, figures: Facts) -> str:
    """Write the model card as Markdown, with measured figures {name: value}."""
    card = _CORPUS_CARD if "corpus" in config.training else _CARD
    return card.format(
        name=config.name,
        version=config.version,
        description=config.description,
        image_tokens=config.image.image_tokens,
        layers=config.decoder.layers,
        units=config.vocabulary.units,
        parameters=sum(config.parameters.values()) / 1e6,
        training=_table(config.training),
        license=config.license[:1].upper() + config.license[1:],
        quality=_table(figures) if figures else "Not measured yet.",
        doubt=_CALIBRATED.format(config.confidence.threshold) if config.confidence else _UNCALIBRATED,
    )


def read_figures(folder: Path) -> Facts:
    """Read the measured figures from the model card of a bundle: {name: value as it stands there}."""
    card = folder / MODEL_CARD
    if not card.is_file():
        return {}
    _, _, measured = card.read_text(encoding="utf-8").partition("\n## Measured\n")
    section = measured.partition("\n## ")[0]
    rows = (line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ") and line != "| | |")
    return {row[0].replace(" ", "_"): row[1] for row in rows if len(row) == 2}


def _table(facts: Facts) -> str:
    rows = "\n".join(f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in facts.items())
    return f"| | |\n|---|---|\n{rows}"


def _shown(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
