"""A bundle: folder of config.json, SHA256SUMS, README.md and *.onnx in, a verified `Bundle` out.

The graphs are opened by `im2sp.onnx`, one at a time, when they are first needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from im2sp.checksums import CHECKSUMS, verify_checksums, write_checksums
from im2sp.errors import BundleError, reason
from im2sp.external_data import data_file
from im2sp.schema import NotJsonError, Schema, SchemaError, parse
from im2sp.speech.audio import HOP, SAMPLE_RATE

__all__ = [
    "CONFIG", "CONFIG_LIMIT", "FORMAT_VERSION", "SPECIAL_TOKENS", "Bundle", "BundleConfig", "BundleDescription",
    "BundleFile", "ConfidenceConfig", "DecoderConfig", "DecodingDefaults", "ImageConfig", "ImageTokenizer",
    "ImageUnitsConfig", "PPCAConfig", "Signal",
    "SpeechEncoderConfig", "VocabularyConfig", "VocoderConfig", "find_bundle", "write_checksums", "write_config",
]  # fmt: skip

FORMAT_VERSION = 7
CONFIG = "config.json"
CONFIG_LIMIT = 4 * 2**20  # bytes; a vocabulary of 65536 subwords fits
SPECIAL_TOKENS = 3  # pad, bos and eos come before the subwords
MOST_IMAGE_UNITS = 65_536  # a photo
_PACKAGED = Path(__file__).parent / "bundles"

# A config comes from outside: no number in it may make the runtime take a machine's whole memory.
Count = Annotated[int, Meta(ge=1, le=65_536)]
Pixels = Annotated[int, Meta(ge=1, le=4_096)]
Deviation = Annotated[float, Meta(gt=0)]
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
Scale = Annotated[float, Meta(ge=1e-6, le=1e6)]
Signal = Literal["score", "length", "ood_score"]  # see im2sp.confidence
Facts = dict[str, str | int | float]


class ImageConfig(Schema, frozen=True):
    """What the image encoder sees: RGB, resized to height x width, /255, minus mean, over std."""

    height: Pixels
    width: Pixels
    mean: tuple[float, float, float]
    std: tuple[Deviation, Deviation, Deviation]
    image_tokens: Count
    grid: tuple[Count, Count]  # (rows, columns) that the image tokens cover, row by row, after any global tokens


class ImageTokenizer(Schema, frozen=True):
    """What made the image units of a photo, and what they look like.

    The units of a photo are int64 [rows * columns * codes]: cell by cell of the grid, row by row, the codes of a cell
    side by side, those of the first level first.
    """

    kind: Literal["semantic", "vit-vqgan"]
    tokenizer: Annotated[str, Meta(min_length=1, max_length=200)]  # its name, for people
    checksum: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # SHA-256 of image_tokenizer.onnx
    grid: tuple[Count, Count]  # (rows, columns) of cells
    codes: Count  # units of a cell
    codebook_size: Annotated[int, Meta(ge=2, le=65_536)]  # units are 0 .. codebook_size - 1, at every level

    def __post_init__(self) -> None:
        if self.units > MOST_IMAGE_UNITS:
            raise ValueError(f"a photo has {self.units} image units, where {MOST_IMAGE_UNITS} are the most")

    @property
    def units(self) -> int:
        """Image units of a photo."""
        return self.grid[0] * self.grid[1] * self.codes

    @property
    def bits(self) -> int:
        """Bits of information in the image units of a photo, when every unit takes as many as the codebook needs."""
        return self.units * (self.codebook_size - 1).bit_length()

    def described(self) -> dict[str, Any]:
        """What stands in a table of its units: these fields, whatever else a subclass has."""
        return {name: getattr(self, name) for name in ImageTokenizer.__struct_fields__}

    def makes_the_units_of(self, other: ImageTokenizer) -> bool:
        """Whether both are the same tokenizer. Names and what is done with the units may differ."""
        return all(
            getattr(self, name) == getattr(other, name) for name in ("checksum", "grid", "codes", "codebook_size")
        )


class ImageUnitsConfig(ImageTokenizer, frozen=True):
    """Image units between the photo and the decoder; `image_tokenizer.onnx` makes them."""

    crop: tuple[Count, Count] | None = None  # (rows, columns) in the middle of the grid that the decoder gets to see
    reconstructs: bool = False  # whether there is an image_decoder.onnx

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None and (self.crop[0] > self.grid[0] or self.crop[1] > self.grid[1]):
            raise ValueError("the crop is larger than the grid of image units")


class DecoderConfig(Schema, frozen=True):
    """Sizes of the decoder and of its key/value cache."""

    layers: Annotated[int, Meta(ge=1, le=256)]
    heads: Annotated[int, Meta(ge=1, le=256)]
    head_dim: Annotated[int, Meta(ge=1, le=1_024)]
    vocabulary_size: Count
    max_tokens: Count  # positions: a hypothesis, its EOS included, has at most so many tokens


class VocabularyConfig(Schema, frozen=True, kw_only=True):
    """Tokens of the decoder; token t >= 3 stands for the units subwords[t - 3], listed as they were learnt.

    `output_units[t - 3]`, which may be empty, overrides the units emitted for token t.
    """

    units: Count = 200
    pad: Annotated[int, Meta(ge=0, lt=SPECIAL_TOKENS)] = 0
    bos: Annotated[int, Meta(ge=0, lt=SPECIAL_TOKENS)] = 1
    eos: Annotated[int, Meta(ge=0, lt=SPECIAL_TOKENS)] = 2
    subwords: list[list[int]]
    output_units: list[list[Annotated[int, Meta(ge=0)]]] | None = None

    def __post_init__(self) -> None:
        if len({self.pad, self.bos, self.eos}) < SPECIAL_TOKENS:
            raise ValueError("pad, bos and eos must differ")
        known = {tuple(subword) for subword in self.subwords}
        if len(known) < len(self.subwords):
            raise ValueError("a subword is listed twice")
        if not all(subword and min(subword) >= 0 and max(subword) < self.units for subword in known):
            raise ValueError(f"a subword is empty or holds a unit outside 0..{self.units - 1}")
        if missing := [unit for unit in range(self.units) if (unit,) not in known]:
            raise ValueError(f"unit {missing[0]} has no subword of its own")
        if self.output_units is not None:
            if len(self.output_units) != len(self.subwords):
                raise ValueError("output_units has not as many entries as there are subwords")
            if max((max(units, default=0) for units in self.output_units), default=0) >= self.units:
                raise ValueError(f"output_units holds a unit outside 0..{self.units - 1}")


class VocoderConfig(Schema, frozen=True, kw_only=True):
    """Units of the vocoder, the context of its graphs on each side, and how durations are rounded."""

    sample_rate: int = SAMPLE_RATE
    hop: int = HOP
    units: Count
    context_frames: Annotated[int, Meta(ge=0, le=4_096)]  # of a sample of the waveform
    duration_context: Annotated[int, Meta(ge=0, le=4_096)]  # units, of a duration
    duration_tolerance: Annotated[float, Meta(gt=0.5, le=100)]  # frames, see im2sp.speech.durations.ErrorDiffusion

    def __post_init__(self) -> None:
        if (self.sample_rate, self.hop) != (SAMPLE_RATE, HOP):
            raise ValueError(f"im2sp speaks at {SAMPLE_RATE} Hz with {HOP} samples a frame")


class SpeechEncoderConfig(Schema, frozen=True):
    """The optional way back, speech -> units; longer recordings are read in pieces of `samples_limit`."""

    units: Count
    samples_limit: Annotated[int, Meta(ge=SAMPLE_RATE, le=600 * SAMPLE_RATE)] = 100 * SAMPLE_RATE


class DecodingDefaults(Schema, frozen=True):
    """The decoding that is recommended for this model."""

    beam: Annotated[int, Meta(ge=1, le=64)]
    length_penalty: Annotated[float, Meta(ge=0, le=10)]
    max_tokens: Count


class PPCAConfig(Schema, frozen=True):
    """Gaussian density of the pooled image prefixes of training photos (probabilistic PCA), see im2sp.confidence."""

    mean: Annotated[list[Number], Meta(min_length=1, max_length=4_096)]  # [width] of a pooled prefix
    components: Annotated[list[list[Number]], Meta(max_length=256)]  # [k][width], orthonormal
    deviations: Annotated[list[Scale], Meta(max_length=256)]  # [k], along the components
    noise: Scale  # deviation in each of the other dimensions
    ood_threshold: Number  # distance that few training photos exceed; beyond it a photo is out of distribution

    def __post_init__(self) -> None:
        if len(self.components) != len(self.deviations) or len(self.components) >= len(self.mean):
            raise ValueError("there must be one deviation for each component, and fewer components than dimensions")
        if any(len(component) != len(self.mean) for component in self.components):
            raise ValueError("a component has not as many dimensions as the mean")


class ConfidenceConfig(Schema, frozen=True):
    """Calibration: a logistic regression over signals, and the speech that replaces an unlikely caption."""

    intercept: Number
    weights: Annotated[dict[Signal, Number], Meta(min_length=1)]
    density: PPCAConfig
    threshold: Annotated[float, Meta(ge=0, le=1)]  # the recommended min_confidence
    abstain_units: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1, max_length=1_000)]
    abstain_durations: Annotated[list[Annotated[int, Meta(ge=1, le=250)]], Meta(min_length=1, max_length=1_000)]

    def __post_init__(self) -> None:
        if len(self.abstain_units) != len(self.abstain_durations):
            raise ValueError("abstain_units and abstain_durations must have the same length")


class BundleConfig(Schema, frozen=True, kw_only=True):
    """config.json of a bundle; see docs/bundle.md."""

    format_version: int = FORMAT_VERSION
    name: str
    version: str
    description: str
    license: str
    language: str
    created: str
    image: ImageConfig
    image_units: ImageUnitsConfig | None = None
    decoder: DecoderConfig
    vocabulary: VocabularyConfig
    vocoder: VocoderConfig
    speech_encoder: SpeechEncoderConfig | None = None
    decoding: DecodingDefaults
    confidence: ConfidenceConfig | None = None
    training: Facts  # what it was trained on
    parameters: dict[str, int]  # per graph

    def __post_init__(self) -> None:
        tokens = SPECIAL_TOKENS + len(self.vocabulary.subwords)
        if tokens != self.decoder.vocabulary_size:
            raise ValueError(f"the decoder has {self.decoder.vocabulary_size} tokens but the vocabulary has {tokens}")
        speakers = (self.vocoder, self.speech_encoder) if self.speech_encoder else (self.vocoder,)
        if any(part.units != self.vocabulary.units for part in speakers):
            raise ValueError("vocabulary, vocoder and speech encoder do not have the same number of units")
        if self.image.grid[0] * self.image.grid[1] > self.image.image_tokens:
            raise ValueError("the grid has more cells than there are image tokens")
        if self.decoding.max_tokens > self.decoder.max_tokens:
            raise ValueError("the recommended max_tokens is more than the decoder has positions")
        if self.confidence:
            if max(self.confidence.abstain_units) >= self.vocabulary.units:
                raise ValueError(f"confidence.abstain_units holds a unit outside 0..{self.vocabulary.units - 1}")
            if len(self.confidence.density.mean) != self.decoder.heads * self.decoder.head_dim:
                raise ValueError("confidence.density.mean has not heads x head_dim dimensions")

    @property
    def speaking_graphs(self) -> tuple[str, ...]:
        """Names of the graphs between a photo and its speech, without `.onnx`."""
        seeing = ("image_tokenizer", "image_decoder_prefix") if self.image_units else ("image_encoder",)
        return (*seeing, "decoder", "duration_predictor", "vocoder")

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of all graphs of this bundle."""
        optional = {
            "speech_encoder": self.speech_encoder is not None,
            "image_decoder": self.image_units is not None and self.image_units.reconstructs,
        }
        return (*self.speaking_graphs, *(name for name, is_there in optional.items() if is_there))


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle."""

    name: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class BundleDescription:
    """What `im2sp info` tells."""

    folder: Path
    config: BundleConfig
    files: tuple[BundleFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Bundle:
    """A folder whose checksums and config have been verified."""

    folder: Path
    config: BundleConfig
    checksums: Mapping[str, str]  # {relative path: hexadecimal SHA-256}

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Verify SHA256SUMS, then config.json. Raises BundleError, one sentence, for anything wrong."""
        if not folder.is_dir():
            raise BundleError(f"there is no bundle folder {folder}: give one that holds {CONFIG} and {CHECKSUMS}")
        checksums = verify_checksums(folder)
        present = {path.name for kind in ("onnx", "data") for path in folder.glob(f"*.{kind}")} | {CONFIG}
        if unlisted := sorted(present - set(checksums)):
            raise BundleError(f"{unlisted[0]} is not in {CHECKSUMS} of the bundle {folder}: get the bundle again")
        config = _read_config(folder / CONFIG)
        for graph in config.graphs:
            if f"{graph}.onnx" not in checksums:
                raise BundleError(f"{graph}.onnx is missing from the bundle {folder}: get the bundle again")
        if data_file(folder / "image_tokenizer.onnx").name in checksums:
            raise BundleError(
                f"the bundle {folder} has weights of image_tokenizer.onnx in another file, where the checksum of its "
                "image units does not see them: export the bundle again"
            )
        if config.image_units and config.image_units.checksum != checksums["image_tokenizer.onnx"]:
            raise BundleError(
                f"image_tokenizer.onnx of the bundle {folder} is not the one that config.json names by its checksum: "
                "export the bundle again"
            )
        return cls(folder, config, checksums)

    @property
    def image_tokenizer(self) -> ImageUnitsConfig:
        """What makes the image units of this bundle. Raises BundleError when it has none."""
        if self.config.image_units is None:
            raise BundleError(f"the bundle {self.folder} has no image units: use a bundle that has them")
        return self.config.image_units

    def describe(self) -> BundleDescription:
        """The config with size and checksum of every listed file."""
        files = [BundleFile(name, (self.folder / name).stat().st_size, sha) for name, sha in self.checksums.items()]
        return BundleDescription(self.folder, self.config, tuple(files))


def write_config(folder: Path, config: BundleConfig) -> Path:
    """Write `folder`/config.json; call `write_checksums` after the last file of the bundle is in place.

    Raises BundleError for values that `Bundle.load` would refuse, which Python does not check when it makes a config.
    """
    path = folder / CONFIG
    text = json.dumps(_without_nothing(msgspec.to_builtins(config)), indent=1, ensure_ascii=False)
    try:
        parse(text.encode(), BundleConfig)
    except SchemaError as error:
        raise BundleError(f"{path} cannot be written, as its values would be refused ({error})") from error
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _without_nothing(values: Any) -> Any:
    """Without the fields that are None, at every level."""
    if not isinstance(values, dict):
        return values
    return {name: _without_nothing(value) for name, value in values.items() if value is not None}


def find_bundle(name_or_dir: str | Path, revision: str | None = None) -> Path:
    """Name of a packaged bundle, a folder, or `owner/name[@revision]` on the hub -> the folder.

    Tried in this order, so what is here is never looked for elsewhere; a `Path` is a folder only. What comes from the
    hub is fetched, or taken from its cache (`im2sp.hub`). Raises BundleError when it is none of them or cannot be had.
    """
    here = _bundle_here(name_or_dir)
    if here is not None:
        if revision:
            raise BundleError(f"{here} is a folder of this machine, which has no revision {revision!r}: leave it out")
        return here
    from im2sp.hub import HubId, fetch_bundle

    hub_id = HubId.parse(str(name_or_dir), revision)
    if hub_id is not None:
        return fetch_bundle(hub_id)
    names = sorted(path.name for path in _PACKAGED.glob("[!_.]*") if path.is_dir())
    raise BundleError(
        f"there is no bundle {name_or_dir!r}: give a bundle folder, one of the packaged names "
        f"({', '.join(names) or 'none is installed'}) or owner/name of one on the hub"
    )


def _bundle_here(name_or_dir: str | Path) -> Path | None:
    """The folder on this machine that is meant, if any."""
    if isinstance(name_or_dir, Path):
        return name_or_dir
    if re.fullmatch(r"\w[\w.-]*", name_or_dir) and (_PACKAGED / name_or_dir).is_dir():
        return _PACKAGED / name_or_dir
    return Path(name_or_dir) if name_or_dir and Path(name_or_dir).is_dir() else None


def _read_config(path: Path) -> BundleConfig:
    try:
        if path.stat().st_size > CONFIG_LIMIT:
            raise BundleError(f"{path} is larger than {CONFIG_LIMIT >> 20} MB: this is not an im2sp bundle")
        text = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {reason(error)}") from error
    try:
        config = parse(text, BundleConfig)
    except NotJsonError as error:
        raise BundleError(f"{path} is not JSON: get the bundle again") from error
    except SchemaError as error:
        _check_version(path, _version_of(text))  # first: the fields of other formats are no mistakes
        raise BundleError(f"{path} is not a valid config ({error})") from error
    _check_version(path, config.format_version)
    return config


class _AnyFormat(msgspec.Struct):
    """What every format has in common."""

    format_version: int = FORMAT_VERSION


def _version_of(text: bytes) -> int:
    try:
        return msgspec.json.decode(text, type=_AnyFormat).format_version
    except (msgspec.DecodeError, RecursionError):
        return FORMAT_VERSION


def _check_version(path: Path, found: int) -> None:
    if found != FORMAT_VERSION:
        advice = "upgrade im2sp" if found > FORMAT_VERSION else "export the bundle again"
        raise BundleError(f"{path} has format version {found} but this im2sp reads {FORMAT_VERSION}: {advice}")
