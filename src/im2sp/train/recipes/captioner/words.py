"""Image units and captions -> pseudo-labels, teachers, text captioner and its report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from im2sp.files import write_json
from im2sp.train.data.caption_targets import Target, encode, targets, word_vectors
from im2sp.train.data.object_names import read_synonyms
from im2sp.train.data.photo_corpora import Captions, class_phrases
from im2sp.train.data.pseudo_labels import KnownPhoto, pseudo_labels
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.data.words import singular
from im2sp.train.distributed import work_alone
from im2sp.train.evaluate.dev_report import dev_report, write_captions
from im2sp.train.launch import is_main_process
from im2sp.train.models.git import GitDecoderConfig
from im2sp.train.models.tagger import Tagger
from im2sp.train.models.unit_captioner import UnitCaptioner
from im2sp.train.recipes.captioner.options import (
    CAPTIONER,
    DISTILLED,
    LABELS,
    PSEUDO,
    PSEUDO_CORPUS,
    SYNONYMS,
    TAGGER,
    TEACHERS,
    TOKENIZER,
    Recipe,
    captions_of,
    corpora_of,
    naming_of,
    presence_penalty,
    read_labels,
    teachers_of,
    units_of,
)
from im2sp.train.recipes.captioner.photos import tagger_inputs
from im2sp.train.tasks.captioner import CaptionerTask
from im2sp.train.tasks.tag_swap import TagSwap
from im2sp.train.trainer import train

log = logging.getLogger(__name__)


def make_pseudo_labels(recipe: Recipe, out: Path) -> None:
    """Choose captions for photos with known objects and no captions."""
    corpora, units = corpora_of(recipe), units_of(recipe)
    model = Tagger.load(recipe.runs / TAGGER)
    tokenizer = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    known = captions_of(corpora).keys() | corpora.held_out
    words = [tokenizer.decode([token]) for token in model.word_tokens.tolist()]
    synonyms = read_synonyms(recipe.data / SYNONYMS)
    with torch.inference_mode():
        logits = model(tagger_inputs(model, units, 0)).sigmoid()
    likely = logits.clamp(min=1e-3).log()
    lift = (logits.clamp(min=1e-6).log() - logits.mean(0).log()).clamp(-2, 4)
    fit = ((likely + lift) / 2).numpy()
    wanted = [
        KnownPhoto(photo, fit[units.rows[photo]], frozenset(names))
        for photo, names in corpora.objects.items()
        if photo in units.rows and photo not in known and names
    ]
    for photo, names in class_phrases(corpora).items():
        row = units.rows[photo]
        columns = (logits[row] > recipe.pseudo_labels.likely).nonzero()[:, 0].tolist()
        fitting = frozenset(singular(word) for word in [*names, *(words[column] for column in columns)])
        wanted.append(KnownPhoto(photo, fit[row], names=tuple(names), words=fitting))
    found = pseudo_labels(wanted, corpora.text, words, synonyms, recipe.pseudo_labels)
    write_json(out / LABELS, found)
    log.info("pseudo-labels: %d of %d photos", len(found), len(wanted))


def targets_of(
    recipe: Recipe, encode: Callable[[str], list[int] | None], more: Mapping[str, Captions] | None = None
) -> list[Target]:
    """Captions, pseudo-labels and what else is given by corpus, of all photos that train, as tokens."""
    corpora = corpora_of(recipe)
    captions = corpora.captions | {PSEUDO_CORPUS: read_labels(recipe, PSEUDO)} | dict(more or {})
    return targets(captions, recipe.corpus_weights, corpora.held_out, encode)


def word_vectors_of(recipe: Recipe, tokenizer: TextTokenizer) -> Tensor | None:
    """Word vectors of all captions, where the recipe starts from them."""
    if not recipe.decoder.word_vectors:
        return None
    corpora = corpora_of(recipe)
    texts = [text for said in captions_of(corpora).values() for text in said]
    texts += [caption.text for caption in corpora.text]
    return word_vectors(texts, tokenizer, recipe.decoder.width, recipe.seed)


def new_text_captioner(
    recipe: Recipe, tokenizer: TextTokenizer, tagger: Tagger, vectors: Tensor | None, seed: int
) -> UnitCaptioner:
    """A text captioner that knows word vectors, and nothing else."""
    torch.manual_seed(seed)
    sizes = {name: value for name, value in asdict(recipe.decoder).items() if name != "word_vectors"}
    model = UnitCaptioner(GitDecoderConfig(vocabulary_size=tokenizer.size, **sizes), tagger)
    if vectors is not None:
        model.set_word_vectors(vectors)
    return model


def make_teachers(recipe: Recipe, out: Path) -> None:
    """Train several text captioners by cross-entropy, which differ by their seed alone, in a process each."""
    threads = max(1, torch.get_num_threads() // recipe.teachers)
    with ProcessPoolExecutor(recipe.teachers, get_context("spawn"), work_alone, (threads,)) as pool:
        list(pool.map(partial(_train_teacher, recipe, out), range(recipe.teachers)))


def _train_teacher(recipe: Recipe, out: Path, number: int) -> None:
    folder, seed = out / str(number), recipe.seed + number
    if (folder / TOKENIZER).is_file():
        return
    tokenizer = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    swap = TagSwap.of(corpora_of(recipe), tokenizer, recipe.teacher.tag_swap) if recipe.teacher.tag_swap else None
    vectors, tagger = word_vectors_of(recipe, tokenizer), Tagger.load(recipe.runs / TAGGER)
    model = new_text_captioner(recipe, tokenizer, tagger, vectors, seed)
    chosen, dev = targets_of(recipe, partial(encode, tokenizer=tokenizer)), _dev_targets(recipe, tokenizer)
    train(CaptionerTask(replace(recipe.teacher, seed=seed), model, units_of(recipe), chosen, dev, swap), folder)
    _save(model, tokenizer, folder)


def make_captioner(recipe: Recipe, out: Path) -> None:
    """Train the first teacher on, to say of each photo what all teachers say, word by word (Hinton et al., 2015)."""
    tokenizer = TextTokenizer.load(recipe.runs / TAGGER / TOKENIZER)
    written = read_labels(recipe, DISTILLED)
    repeated = {photo: recipe.distillation.repeats * texts for photo, texts in written.items()}
    chosen = targets_of(recipe, partial(encode, tokenizer=tokenizer), {DISTILLED: repeated})
    model, teachers = UnitCaptioner.load(recipe.runs / TEACHERS / "0"), teachers_of(recipe)
    dev = _dev_targets(recipe, tokenizer)
    train(CaptionerTask(recipe.captioner, model, units_of(recipe), chosen, dev, teachers=teachers), out)
    _save(model, tokenizer, out)


def _dev_targets(recipe: Recipe, tokenizer: TextTokenizer) -> dict[str, list[Target]]:
    return {
        name: [Target(photo, [encode(text, tokenizer) for text in texts], 1.0) for photo, texts in part.items()][:300]
        for name, part in corpora_of(recipe).dev.items()
    }


def _save(model: UnitCaptioner, tokenizer: TextTokenizer, out: Path) -> None:
    if is_main_process():
        model.save(out)
        tokenizer.save(out / TOKENIZER)


def make_report(recipe: Recipe, out: Path) -> None:
    """Describe the held-out photos by the teachers together and by the captioner; score the captions."""
    corpora, units = corpora_of(recipe), units_of(recipe)
    photos = sorted(corpora.held_out & units.rows.keys())
    model, tokenizer = (
        UnitCaptioner.load(recipe.runs / CAPTIONER),
        TextTokenizer.load(recipe.runs / CAPTIONER / TOKENIZER),
    )
    found, penalty = {}, presence_penalty(recipe, tokenizer)
    for name, models, naming in (
        ("teachers", teachers_of(recipe), None),
        ("plain", [model], None),
        ("naming", [model], naming_of(recipe, model, tokenizer.words)),
    ):
        hypotheses = write_captions(models, tokenizer.decode, units, photos, recipe.beam, naming, penalty)
        captions = {photo: best for photo, (best, *_) in hypotheses.items()}
        write_json(out / f"{name}.json", captions)
        found[name] = dev_report(captions, corpora, read_synonyms(recipe.data / SYNONYMS))
        log.info("%s: %s", name, found[name])
    write_json(out / "report.json", found)
