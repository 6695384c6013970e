"""How much of the captions image units keep: a sweep of their rate, and what a start and augmentation are worth.

    python benchmarks/image_units.py RUNS ROW... [--recipe recipes/flickr8k/image-units.toml] [--photos 250]
    python benchmarks/image_units.py RUNS --table

RUNS is the folder of a run of that recipe, up to the stages that a row needs. Every row trains a translator in
RUNS/rows, exports a bundle and lets it speak; what was measured is a line of RUNS/rows.jsonl at once, and
is not measured again. All rows learn from the same sentences, those of the recipe's parent bundle, and the same
recogniser hears them. Rows:

    parent                the parent itself, which sees photo features: nothing is trained
    rate/BITS[/STEPS]     semantic units of so many bits a photo, from the parent's own weights, trained for STEPS
    vit-vqgan[/STEPS]     the ViT-VQGAN's units, from the parent's weights but for the image projection
    start/INPUT/WEIGHTS[/plain][/SEED]   INPUT is features, semantic or vit-vqgan, WEIGHTS is text (those of the text
                          captioner) or scratch; plain: without token augmentation, as features always are
    text/INPUT            a text captioner from scratch, scored by what it writes about all dev photos (beam 3)

`--photos 0` evaluates nothing by speech. Steps, photos a step and learning rates are those of the recipe's sections
[translate_units] (rate), [translate] (vit-vqgan) and [ablation] (start, text).
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from im2sp.bundle import Bundle, find_bundle
from im2sp.train import pipeline
from im2sp.train.data.flickr8k import read_captions
from im2sp.train.data.image_features import ImageFeatures, PhotoInputs
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.evaluate.bootstrap import CaptionStatistics, intervals
from im2sp.train.evaluate.caption_metrics import caption_scores
from im2sp.train.evaluate.photo_sets import flickr8k_photos
from im2sp.train.evaluate.report import CAPTIONS, EvaluationOptions, evaluate, fingerprint
from im2sp.train.logs import log_to_stderr
from im2sp.train.models.translator import Translator, TranslatorConfig
from im2sp.train.models.vit_vqgan import VitVqgan
from im2sp.train.recipe import FEATURES, INPUTS, SEMANTIC, VIT_VQGAN, Recipe
from im2sp.train.stages.pretrain import token_sentences, write_captions
from im2sp.train.stages.translate import train_and_keep
from im2sp.train.training.token_augmentation import TokenAugmentation
from im2sp.train.training.translator import TranslatorTraining, train_translator
from im2sp.train.unit_pipeline import SEMANTIC_AUGMENTATION, semantic_translator, vit_vqgan_translator

RATES = {64: (1, 16), 256: (2, 256), 512: (4, 256), 1120: (7, 1024), 4096: (32, 256), 16384: (128, 256)}
SHARED = ("features", "units", "subwords.json", "image_tokenizer", "token_vit", "vit-vqgan-units")
FINISHED = "translate-pretrained"
PLAIN = TokenAugmentation(replaced=0.0, swapped=0.0, noisy=0.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run of the recipe, and how its rows are evaluated."""

    recipe: Recipe
    photos: int  # of the dev part, drawn by the seed

    @property
    def rows(self) -> Path:
        """Where results are kept."""
        return self.recipe.runs / "rows.jsonl"

    def folder_of(self, row: str, *shared: str, **changes: dict[str, Any]) -> Recipe:
        """The recipe with a folder of runs for one row, which shares what comes before it, and other sections."""
        folder = self.recipe.runs / "rows" / row.replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*SHARED, *shared):
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(self.recipe.runs / name)
        sections = {name: self.recipe.sections.get(name, {}) | values for name, values in changes.items()}
        return replace(self.recipe, runs=folder, sections=self.recipe.sections | sections)

    def speak(self, bundle: Path, out: Path) -> dict[str, Any]:
        """Scores by speech, and where the captions are."""
        if not self.photos:
            return {}
        options = self._options()
        report = evaluate(bundle, self.recipe.data, None, out, options)
        captions = out / fingerprint(Bundle.load(bundle), report["decoding"]) / CAPTIONS
        return {"captions": str(captions), "scores": report["captions"], "bundle": report["bundle"]}

    def _options(self) -> EvaluationOptions:
        return EvaluationOptions(
            photos=self.photos or None,
            clips=0,
            recogniser=self.recipe.recogniser,
            seed=self.recipe.seed,
            heard=self.recipe.runs / "heard.jsonl",
            command="benchmarks/image_units.py",
        )

    def against_parent(self, captions: Path, parent: Path) -> dict[str, Any]:
        """Scores and their differences from the parent's on the same photos, with intervals."""
        references = flickr8k_photos(self.recipe.data, "dev").references
        said, by_parent = (json.loads(path.read_text()) for path in (captions, parent))
        if missing := set(said) - set(by_parent):
            raise SystemExit(f"the parent has not spoken about {len(missing)} of the photos: measure it on more")
        these = CaptionStatistics.of(said, references)
        those = CaptionStatistics.of({image: by_parent[image] for image in said}, references)
        return {
            "alone": {name: asdict(found) for name, found in intervals(these).items()},
            "difference": {name: asdict(found) for name, found in intervals(these, those).items()},
        }


def held_out_loss(folder: Path) -> float:
    """The last cross-entropy on held-out sentences [nats a token] that training wrote."""
    return float(json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["held_out"])


def rate_row(run: Run, row: str, bits: int, steps: int | None) -> dict[str, Any]:
    """Semantic units of a rate."""
    levels, size = RATES[bits]
    training = {} if steps is None else {"steps": steps}
    units = {"levels": levels, "size": size}
    recipe = run.folder_of(row, FINISHED, semantic_units=units, translate_units=training)
    quantiser = run.recipe.runs / "quantisers" / str(bits)
    quantiser.mkdir(parents=True, exist_ok=True)
    if not recipe.semantic_units.is_symlink():
        recipe.semantic_units.symlink_to(quantiser)
    pipeline.semantic_units(recipe)
    pipeline.translate(recipe, seen=SEMANTIC)
    pipeline.export(recipe, seen=SEMANTIC)
    report = json.loads((recipe.semantic_units / "report.json").read_text())
    loss = held_out_loss(recipe.translator(seen=SEMANTIC)) if steps != 0 else None
    spoken = run.speak(recipe.bundle_of(SEMANTIC), recipe.evaluation_of(SEMANTIC))
    return {"bits": bits, "missing": report["missing_held_out"], "held_out": loss, **spoken}


def vit_vqgan_row(run: Run, row: str, steps: int | None) -> dict[str, Any]:
    """The ViT-VQGAN's units."""
    run.recipe.vit_vqgan_units.mkdir(exist_ok=True)
    recipe = run.folder_of(row, FINISHED, translate={} if steps is None else {"steps": steps})
    pipeline.translate(recipe, seen=VIT_VQGAN)
    pipeline.export(recipe, seen=VIT_VQGAN)
    bits = VitVqgan.load(recipe.image_tokenizer).config.bits
    spoken = run.speak(recipe.bundle_of(VIT_VQGAN), recipe.evaluation_of(VIT_VQGAN))
    return {"bits": bits, "held_out": held_out_loss(recipe.translator(seen=VIT_VQGAN)), **spoken}


def start_row(run: Run, row: str, seen: str, weights: str, plain: bool, seed: int) -> dict[str, Any]:
    """An input and a start, with the budget that all of these rows have."""
    recipe = run.folder_of(row, FINISHED, "semantic-units")
    options = recipe.section("ablation", TranslatorTraining, seed=seed)
    subwords = UnitSubwords.load(
        recipe.subword_file, Bundle.load(find_bundle(str(recipe.parent))).config.vocabulary.units
    )
    torch.manual_seed(seed)
    model, features = _fresh(recipe, seen, subwords.vocabulary_size, plain)
    if weights == "text":
        model.transfer(Translator.load(run.recipe.first_captioner))
    out = recipe.runs / "trained" if seen == FEATURES else recipe.translator("scratch", seen)
    train_and_keep(model, features, recipe.lessons, subwords, options, out)
    exported = recipe
    if seen == FEATURES:  # the folder of the finished translator is taken
        exported = replace(recipe, runs=recipe.runs / "of-features")
        exported.runs.mkdir(exist_ok=True)
        for name, target in (
            ("translate-scratch", out),
            ("units", recipe.lessons),
            ("subwords.json", recipe.subword_file),
        ):
            if not (exported.runs / name).is_symlink():
                (exported.runs / name).symlink_to(target)
    pipeline.export(exported, "scratch", seen)
    spoken = run.speak(exported.bundle_of(seen), exported.evaluation_of(seen))
    return {"input": seen, "weights": weights, "plain": plain, "seed": seed, "held_out": held_out_loss(out), **spoken}


def text_row(run: Run, row: str, seen: str) -> dict[str, Any]:
    """A text captioner on an input, with the budget of the rows of a start."""
    recipe = run.folder_of(row, FINISHED, "semantic-units")
    tokenizer = TextTokenizer.load(run.recipe.text_tokenizer)
    options = recipe.section("ablation", TranslatorTraining, seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    model, features = _fresh(recipe, seen, tokenizer.size, plain=False)
    sentences, out = token_sentences(read_captions(recipe.data), tokenizer), recipe.runs / "captioner"
    model = train_translator(model, features, sentences["train"], sentences["dev"], options, out)
    references = flickr8k_photos(recipe.data, "dev").references
    scores = caption_scores(write_captions(model, tokenizer, features, sorted(references)), references)
    return {"input": seen, "held_out": held_out_loss(out), "text_scores": asdict(scores)}


def _fresh(recipe: Recipe, seen: str, vocabulary: int, plain: bool) -> tuple[Translator, PhotoInputs]:
    """An untrained translator, and what it looks at."""
    config = recipe.section("translator", TranslatorConfig, vocabulary_size=vocabulary)
    if seen == FEATURES:
        features = ImageFeatures(*recipe.all_features)
        return Translator(replace(config, image_width=features.shape[1])), features
    if seen == SEMANTIC:
        changes = recipe.section(SEMANTIC_AUGMENTATION, TokenAugmentation)
        return semantic_translator(recipe, config, None if plain else changes)
    augmentation = PLAIN if plain else recipe.section("token_augmentation", TokenAugmentation)
    return vit_vqgan_translator(recipe, config, augmentation, (recipe.features.name,))


def measure(run: Run, row: str) -> dict[str, Any]:
    """One row by its name."""
    kind, *more = row.split("/")
    if kind == "parent":
        return run.speak(find_bundle(str(run.recipe.parent)), run.recipe.runs / "rows" / "parent")
    if kind == "rate":
        return rate_row(run, row, int(more[0]), int(more[1]) if more[1:] else None)
    if kind == VIT_VQGAN:
        return vit_vqgan_row(run, row, int(more[0]) if more else None)
    if kind == "text" and more and more[0] in INPUTS:
        return text_row(run, row, more[0])
    seen, weights, *rest = more
    if kind != "start" or seen not in INPUTS or weights not in ("text", "scratch"):
        raise SystemExit(f"there is no row {row}")
    seeds = [int(word) for word in rest if word.isdecimal()]
    return start_row(run, row, seen, weights, "plain" in rest, seeds[0] if seeds else run.recipe.seed)


def measured(run: Run) -> dict[tuple[str, int], dict[str, Any]]:
    """What is there already, by row and photos."""
    lines = run.rows.read_text().splitlines() if run.rows.is_file() else []
    return {(found["row"], found["photos"]): found for found in map(json.loads, lines)}


def table(run: Run) -> Iterator[str]:
    """All that was measured, in Markdown."""
    yield "| row | photos | bits | held out | BLEU-4 | METEOR | ROUGE-L | CIDEr | different | less than the parent |"
    yield "|---" * 10 + "|"
    for (row, photos), found in measured(run).items():
        cells = [row, photos or "", found.get("bits", ""), _number(found.get("held_out"), 3)]
        if scores := found.get("scores", found.get("text_scores")):
            cells += [_number(scores[name], 1) for name in ("bleu4", "meteor", "rouge_l")]
            cells += [_number(scores["cider"], 3), scores["different_sentences"], _difference(found)]
        yield f"| {' | '.join(map(str, cells))} |"


def _difference(found: dict[str, Any]) -> str:
    if "intervals" not in found:
        return ""
    apart = found["intervals"]["difference"]
    return ", ".join(
        f"{apart[name]['value']:+.{places}f} ({apart[name]['low']:+.{places}f} to {apart[name]['high']:+.{places}f})"
        for name, places in (("bleu4", 1), ("cider", 3))
    )


def _number(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


def main() -> None:
    """Measure rows, or print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/flickr8k/image-units.toml"))
    parser.add_argument("--photos", type=int, default=250, help="dev photos that are spoken about; 0 for none")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    log_to_stderr()
    torch.set_num_threads(1)
    run = Run(Recipe.read(arguments.recipe, runs=arguments.runs), arguments.photos)
    for row in arguments.rows:
        if (row, run.photos) in measured(run):
            continue
        found = {"row": row, "photos": run.photos, **measure(run, row)}
        parents = [known for (name, _), known in measured(run).items() if name == "parent"]
        if parents and "captions" in found and row != "parent":
            widest = max(parents, key=lambda known: int(known["photos"]))
            found["intervals"] = run.against_parent(Path(found["captions"]), Path(widest["captions"]))
        with run.rows.open("a") as file:
            file.write(json.dumps(found) + "\n")
        log.info("%s: %s", row, {name: value for name, value in found.items() if name in ("held_out", "scores")})
    if arguments.table:
        print("\n".join(table(run)))


if __name__ == "__main__":
    main()
