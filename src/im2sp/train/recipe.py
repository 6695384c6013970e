"""A recipe: one TOML file -> typed options of a run, and the stages of its kind.

The key `recipe` names the kind: a module of `im2sp.train.recipes` with the dataclass `Recipe` and the list `STAGES`.
"""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import msgspec

from im2sp.errors import Im2SpError
from im2sp.train.data.voice import VoiceConfig
from im2sp.train.values import as_tuples

if TYPE_CHECKING:
    from im2sp.train.stages import Stage

T = TypeVar("T")

KINDS = ("voice", "captioner")


@dataclass(frozen=True)
class BaseRecipe:
    """Options that all recipes have. A kind adds its sections, which are dataclasses.

    A section with a `seed` has the recipe's, unless it gives its own.
    """

    recipe: str  # one of KINDS
    data: Path  # what the run reads
    runs: Path  # what the run makes: a folder for each stage
    seed: int = 0
    timeout_minutes: float = 60.0  # how long one of several processes waits for another


def read_recipe(
    path: Path, data: Path | None = None, runs: Path | None = None
) -> tuple[BaseRecipe, Sequence[Stage[Any]]]:
    """Read a recipe; return its options and the stages of its kind.

    Args:
        data, runs: folders in place of the recipe's.

    Raises:
        Im2SpError: it cannot be read, its kind is unknown, or it has a key or a value that its kind does not know.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Im2SpError(f"the recipe {path} cannot be read: {error}") from error
    kind = values.get("recipe")
    if kind not in KINDS:
        raise Im2SpError(f"the recipe {path} has recipe = {kind!r}: choose one of {', '.join(KINDS)}")
    module = importlib.import_module(f"im2sp.train.recipes.{kind}")
    values |= {name: str(folder) for name, folder in (("data", data), ("runs", runs)) if folder is not None}
    for name, section in get_type_hints(module.Recipe).items():
        if is_dataclass(section) and "seed" in {field.name for field in fields(section)}:
            values.setdefault(name, {}).setdefault("seed", values.get("seed", 0))
    return parse(module.Recipe, values, f"the recipe {path}"), module.STAGES


def parse(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Make a dataclass, with dataclasses in it, of the values of a TOML or JSON file.

    Raises:
        Im2SpError: a key is unknown or missing, or a value is of another type.
    """
    _refuse_unknown(kind, values, where)
    try:
        return msgspec.convert(values, kind, dec_hook=lambda type_, value: type_(value))
    except msgspec.ValidationError as error:
        raise Im2SpError(f"{where}: {error}") from error


def _refuse_unknown(kind: type[Any], values: dict[str, Any], where: str) -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            raise Im2SpError(f"{where} has the unknown key {name!r}: known are {', '.join(sorted(hints))}")
        if is_dataclass(hints[name]) and isinstance(value, dict):
            _refuse_unknown(hints[name], value, f"{where}, section [{name}],")


# Below: the recipes of im2sp-lab, until their last user is gone.

CORPUS, IMAGE_ENCODER = "corpus", "image_encoder"  # sections: recordings of people; published weights
PRONUNCIATIONS = "pronunciations"  # section: the translator learns from regular units
REVOICE = "revoice"  # section: finer speech units on the HuBERT of the parent, and its vocoder learns on with them
REWARD_TRANSLATOR = "reward_translator"  # section: the translator learns on from its own sentences, read as words
HIFIGAN = "hifigan"  # section: the stage `vocoder` trains the published kind
TUNED_BACKBONE = "backbone.safetensors"

INPUTS = FEATURES, SEMANTIC, VIT_VQGAN = "features", "semantic", "vit-vqgan"  # by which a translator sees photos


@dataclass(frozen=True)
class Recipe:
    """Options of a run. Sections are kept as written and become the options of a stage when it starts (`section`)."""

    data: Path
    runs: Path
    unlabelled: Path | None = None  # folder of photos without captions, about which the text captioner writes
    pieces: int = 0  # cut out of each of these; they count as photos of their own
    parent: str | None = None  # a bundle that the run goes on from (stage `adopt`): its translator and its voice
    seed: int = 0
    subwords: int = 2000  # size of the unit-subword vocabulary
    views: tuple[str, ...] = ("whole", "flip")  # of each photo
    limit_photos: int = 0  # photos of each split to use; 0 for all
    recogniser: str = "base"
    resynthesis_clips: int = 300  # dev clips on which the voice is measured
    patience: float = 60.0  # minutes that one of several training processes waits for another
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, data: Path | None = None, runs: Path | None = None) -> Recipe:
        """Read a recipe file.

        Raises:
            Im2SpError: it is missing, not TOML, has a key that no stage knows, or a section that lacks another.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Im2SpError(f"the recipe {path} cannot be read: {error}") from error
        sections = {name: value for name, value in values.items() if isinstance(value, dict)}
        plain = {name: value for name, value in values.items() if name not in sections}
        known = {f.name for f in fields(cls)} - {"sections"}
        if unknown := sorted(set(plain) - known):
            raise Im2SpError(
                f"the recipe {path} has the unknown key {unknown[0]!r}: known are {', '.join(sorted(known))}"
            )
        plain["data"], plain["runs"] = Path(plain.get("data", ".")), Path(plain.get("runs", "runs"))
        if "unlabelled" in plain:
            plain["unlabelled"] = Path(plain["unlabelled"])
        if "views" in plain:
            plain["views"] = tuple(plain["views"])
        recipe = cls(**plain, sections=sections)
        if REVOICE in sections and not (recipe.replaces_parent and recipe.pronounces):
            raise Im2SpError(
                f"the recipe {path} has [{REVOICE}], by which a parent's units become others: it needs a `parent`, "
                f"[distil] and [{PRONUNCIATIONS}], too"
            )
        return replace(recipe, data=data or recipe.data, runs=runs or recipe.runs)

    def section(self, name: str, kind: type[T], **more: Any) -> T:
        """Options of a stage: the defaults of `kind`, then the recipe's section, then `more`.

        Raises:
            Im2SpError: the section has a key that `kind` does not.
        """
        values = {key: as_tuples(value) for key, value in self.sections.get(name, {}).items()}
        try:
            return kind(**(values | more))
        except TypeError as error:
            raise Im2SpError(f"section [{name}] of the recipe does not fit {kind.__name__}: {error}") from error

    @property
    def voice(self) -> VoiceConfig:
        """The voice that speaks the captions."""
        return self.section("voice", VoiceConfig)

    @property
    def speech(self) -> Path:
        """Spoken captions."""
        return self.runs / "speech"

    @property
    def hubert(self) -> Path:
        """HuBERT iterations; `speech_encoder` in it is the final one."""
        return self.runs / "hubert"

    @property
    def speech_encoder(self) -> Path:
        """The finished speech encoder."""
        return self.hubert / "speech_encoder"

    @property
    def units(self) -> Path:
        """Unit tables."""
        return self.runs / "units"

    @property
    def pronounces(self) -> bool:
        """Whether the translator learns from regular units, which the section [pronunciations] says."""
        return PRONUNCIATIONS in self.sections

    @property
    def lessons(self) -> Path:
        """Unit tables that the translator learns from: as they were heard, or regular."""
        return self.runs / "pronounced" if self.pronounces else self.units

    @property
    def subword_file(self) -> Path:
        """Merges of the unit subwords."""
        return self.lessons / "subwords.json" if self.pronounces else self.runs / "subwords.json"

    @property
    def frozen_features(self) -> Path:
        """Image features of the ImageNet backbone, from which the text captioner starts."""
        return self.runs / "features"

    @property
    def features(self) -> Path:
        """Image features."""
        return self.tuned / "features" if self.tunes else self.frozen_features

    @property
    def unlabelled_features(self) -> Path:
        """Image features of the photos without captions."""
        return self.tuned / "features-unlabelled" if self.tunes else self.runs / "features-unlabelled"

    @property
    def tunes(self) -> bool:
        """Whether the late part of the image backbone is tuned, which the section [tune] says."""
        return "tune" in self.sections

    @property
    def tuned(self) -> Path:
        """What the stage `tune` makes: a text captioner, weights of the backbone, maps and features of photos."""
        return self.runs / "tune"

    @property
    def tuned_backbone(self) -> Path | None:
        """Weights of the late backbone that replace those of ImageNet, if any."""
        return self.tuned / TUNED_BACKBONE if self.tunes else None

    @property
    def all_features(self) -> tuple[Path, ...]:
        """Folders of image features of all photos that the recipe uses."""
        return (self.features, self.unlabelled_features) if self.unlabelled else (self.features,)

    @property
    def distilled(self) -> Path:
        """Sentences that the text captioner wrote: all that it found about each photo."""
        return self.runs / "distilled.jsonl"

    @property
    def unspoken(self) -> Path:
        """Those of them that were chosen and are not spoken."""
        return self.runs / "distilled-unspoken.jsonl"

    @property
    def text_tokenizer(self) -> Path:
        """The words of the text captioner."""
        return self.runs / "pretrain" / "tokenizer.json"

    @property
    def first_captioner(self) -> Path:
        """The text captioner that learned on features of the ImageNet backbone."""
        return self.runs / "pretrain"

    @property
    def pretrained(self) -> Path:
        """The text captioner that the translator starts from, but for a GIT's."""
        return self.tuned if self.tunes else self.first_captioner

    @property
    def git(self) -> Path:
        """A converted GIT: its image encoder and its translator."""
        return self.runs / "git"

    @property
    def replaces_parent(self) -> bool:
        """Whether a text captioner teaches the translator of the parent better; else the parent teaches."""
        return self.parent is not None and "distil" in self.sections

    @property
    def keeps_voice(self) -> bool:
        """Whether units, vocoder and speech encoder are the parent's as they are; else the run makes its own."""
        return self.parent is not None and REVOICE not in self.sections

    @property
    def adopted(self) -> Path:
        """The translator of the parent: one to go on from, or finished."""
        return self.runs / "parent" if self.replaces_parent else self.translator()

    @property
    def keeps_words(self) -> bool:
        """Whether the translator goes on with the parent's subwords, so that it starts from the parent's translator."""
        return self.replaces_parent and not self.pronounces

    @property
    def start(self) -> Path:
        """What the translator starts from: the text captioner, a GIT's, or the parent's own translator."""
        if self.keeps_words:
            return self.adopted
        return self.git / "translator" if IMAGE_ENCODER in self.sections else self.pretrained

    @property
    def rewarded(self) -> Path:
        """The text captioner after self-critical training."""
        return self.runs / "pretrain-rewarded"

    @property
    def teacher(self) -> Path:
        """The text captioner whose sentences are distilled."""
        return self.rewarded if "reward" in self.sections else self.pretrained

    @property
    def said(self) -> Path:
        """By which units of the voice the subwords are said, where the translator learned other units (`resound`)."""
        return self.lessons / "said.json"

    @property
    def vocoder(self) -> Path:
        """Vocoder and duration predictor."""
        return self.runs / "vocoder"

    @property
    def voice_of_lessons(self) -> Path:
        """The same, its duration predictor used to regular units where the translator says those."""
        own = self.pronounces and not self.keeps_voice and HIFIGAN not in self.sections
        return self.lessons / "voice" if own else self.vocoder

    @property
    def first_vocoder(self) -> Path:
        """The parent's, for the units of [revoice]: what the vocoder starts from."""
        return self.vocoder / "start"

    @property
    def image_tokenizer(self) -> Path:
        """The ViT-VQGAN."""
        return self.runs / "image_tokenizer"

    @property
    def token_vit(self) -> Path:
        """The token ViT that was distilled from the image encoder."""
        return self.runs / "token_vit"

    @property
    def semantic_units(self) -> Path:
        """The quantiser of image features, its report, and the units of all photos below `units`."""
        return self.runs / "semantic-units"

    @property
    def vit_vqgan_units(self) -> Path:
        """The units that the ViT-VQGAN makes of all photos."""
        return self.runs / "vit-vqgan-units"

    def translator(self, start: str = "pretrained", seen: str = FEATURES) -> Path:
        """The translator that started from "pretrained" or "scratch" weights and sees photos by one of INPUTS."""
        if seen == FEATURES:
            return self.runs / f"translate-{start}"
        return self.runs / (f"translate-{seen}" if start == "pretrained" else f"translate-{seen}-{start}")

    @property
    def rewarded_translator(self) -> Path:
        """The translator of photo features after self-critical training."""
        return self.runs / "translate-rewarded"

    def finished_translator(self, start: str = "pretrained", seen: str = FEATURES) -> Path:
        """The translator that goes into a bundle."""
        rewarded = REWARD_TRANSLATOR in self.sections and (start, seen) == ("pretrained", FEATURES)
        return self.rewarded_translator if rewarded else self.translator(start, seen)

    def bundle_of(self, seen: str) -> Path:
        """The exported bundle that sees photos by one of INPUTS."""
        return self.runs / ("bundle" if seen == FEATURES else f"bundle-{seen}")

    @property
    def bundle(self) -> Path:
        """The exported bundle of the photo features."""
        return self.bundle_of(FEATURES)

    def evaluation_of(self, seen: str) -> Path:
        """What the evaluation wrote of such a bundle."""
        return self.runs / ("evaluation" if seen == FEATURES else f"evaluation-{seen}")

    @property
    def evaluation(self) -> Path:
        """What the evaluation wrote of the bundle of the photo features."""
        return self.evaluation_of(FEATURES)
