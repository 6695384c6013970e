"""Schema of config.json: sizes, vocabulary, recommended decoding, calibration and training facts (docs/bundle.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from im2sp.arrays import HOP, SAMPLE_RATE
from im2sp.schema import Schema

FORMAT_VERSION = 10
SPECIAL_TOKENS = 3  # pad, bos and eos come before the subwords
MOST_IMAGE_UNITS = 65_536  # a photo
CACHE_LIMIT = 2**31  # bytes of keys and values of a caption, with the recommended decoding

# A config comes from outside: no number in it may make the runtime take a machine's whole memory.
Count = Annotated[int, Meta(ge=1, le=65_536)]
CodebookSize = Annotated[int, Meta(ge=2, le=65_536)]
Pixels = Annotated[int, Meta(ge=1, le=4_096)]
Deviation = Annotated[float, Meta(gt=0)]
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
Scale = Annotated[float, Meta(ge=1e-6, le=1e6)]
Signal = Literal["score", "lowest", "length", "named", "evidence"]  # see im2sp.confidence
Token = Annotated[int, Meta(ge=0, le=65_535)]
Sound = Annotated[int, Meta(ge=0, le=65_535)]
Phrase = Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1, max_length=1_000)]  # units
PhraseDurations = Annotated[list[Annotated[int, Meta(ge=1, le=250)]], Meta(min_length=1, max_length=1_000)]
Weights = Annotated[list[Number], Meta(max_length=256)]
Facts = dict[str, str | int | float]


Resampling = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]  # filters of Pillow


class ImageConfig(Schema, frozen=True):
    """Input of the image encoder: RGB, resized to height x width, /255, minus mean, over std."""

    height: Pixels  # pixels of the input
    width: Pixels  # pixels of the input
    mean: tuple[float, float, float]  # of R, G, B
    std: tuple[Deviation, Deviation, Deviation]  # of R, G, B
    image_tokens: Count  # length of the image prefix
    grid: tuple[Count, Count]  # (rows, columns) that the image tokens cover, row by row, after any global tokens
    shorter_side: Pixels | None = None  # resize to this many pixels, then crop the middle; None: resize without a crop
    resampling: Resampling = "bicubic"  # filter of the resize

    def __post_init__(self) -> None:
        if self.shorter_side is not None and self.shorter_side < max(self.height, self.width):
            raise ValueError("image.shorter_side is less than what is cropped from it")


class ImageTokenizer(Schema, frozen=True):
    """Tokenizer of image units, and their layout.

    The units of a photo are int64 [rows * columns * codes + len(photo_codebooks)]: cell by cell of the grid, row by
    row, the codes of a cell side by side, those of the first level first; then the units of the whole photo.
    """

    kind: Literal["semantic", "vit-vqgan"]  # residual quantisation of features, or tokens of a ViT-VQGAN
    tokenizer: Annotated[str, Meta(min_length=1, max_length=200)]  # its name, for people
    checksum: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # of image_tokenizer.onnx
    grid: tuple[Count, Count]  # (rows, columns) of cells
    codes: Count  # units of a cell
    codebook_size: CodebookSize  # units are 0 .. codebook_size - 1, at every level
    photo_codebooks: Annotated[tuple[CodebookSize, ...], Meta(max_length=1_000)] = ()  # sizes, of units of the photo

    def __post_init__(self) -> None:
        if self.units > MOST_IMAGE_UNITS:
            raise ValueError(f"a photo has {self.units} image units, where {MOST_IMAGE_UNITS} are the most")

    @property
    def units(self) -> int:
        """Image units of a photo."""
        return self.grid[0] * self.grid[1] * self.codes + len(self.photo_codebooks)

    @property
    def codebook_sizes(self) -> list[int]:
        """Size of the codebook of each unit of a photo."""
        return [self.codebook_size] * (self.units - len(self.photo_codebooks)) + list(self.photo_codebooks)

    @property
    def bits(self) -> int:
        """Bits of information in the image units of a photo, when every unit takes as many as the codebook needs."""
        return sum((size - 1).bit_length() for size in self.codebook_sizes)

    def described(self) -> dict[str, Any]:
        """Return these fields, without those of a subclass: they stand in tables of its units."""
        return {name: getattr(self, name) for name in ImageTokenizer.__struct_fields__}

    def makes_the_units_of(self, other: ImageTokenizer) -> bool:
        """Whether both are the same tokenizer, whatever their names."""
        described = self.described() | {"tokenizer": other.tokenizer, "kind": other.kind}
        return described == other.described()


class ImageUnitsConfig(ImageTokenizer, frozen=True):
    """Image units between the photo and the decoder; `image_tokenizer.onnx` makes them."""

    crop: tuple[Count, Count] | None = None  # (rows, columns) in the middle of the grid that the decoder uses
    reconstructs: bool = False  # whether there is an image_decoder.onnx

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None and (self.crop[0] > self.grid[0] or self.crop[1] > self.grid[1]):
            raise ValueError("the crop is larger than the grid of image units")


class DecoderConfig(Schema, frozen=True):
    """Sizes of the decoder and of its key/value cache."""

    layers: Annotated[int, Meta(ge=1, le=256)]  # transformer layers
    heads: Annotated[int, Meta(ge=1, le=256)]  # attention heads of a layer
    head_dim: Annotated[int, Meta(ge=1, le=1_024)]  # channels of a head
    vocabulary_size: Count  # tokens, the three special ones included
    max_tokens: Count  # positions: a hypothesis, its EOS included, has at most so many tokens
    token_bonus: bool = False  # the graph before the decoder gives a bonus of each token, in logits
    token_evidence: bool = False  # that graph gives the log odds that a caption of the photo holds each token

    @property
    def by_token(self) -> list[str]:
        """Outputs of the graph before the decoder that have a number for each token, in their order."""
        return [name for name in ("token_bonus", "token_evidence") if getattr(self, name)]


class Pronunciations(Schema, frozen=True):
    """How tokens are said between their neighbours: which subword stands for a token in which context.

    Sounds are numbers for what a token begins or ends with. Of the rows of a token, that which names both sounds beside
    it holds, else the one with the sound after it, the one before it, or none. Rows of bos and eos, where there are
    any, are the silences around a sentence.
    """

    first: list[Sound]  # [vocabulary_size], the sound that each token begins with
    last: list[Sound]  # [vocabulary_size], the sound that each token ends with
    said: list[tuple[Token, Sound | None, Sound | None, Token]]  # token, sound before it, sound after it, subword

    def __post_init__(self) -> None:
        if len(self.first) != len(self.last):
            raise ValueError("the pronunciations have not as many first sounds as last ones")
        anywhere = {token for token, before, after, _ in self.said if before is None and after is None}
        if missing := set(range(SPECIAL_TOKENS, len(self.first))) - anywhere:
            raise ValueError(f"token {min(missing)} has no pronunciation that fits anywhere")
        if max((token for token, *_ in self.said), default=0) >= len(self.first):
            raise ValueError(f"a pronunciation is of a token outside 0..{len(self.first) - 1}")


class VocabularyConfig(Schema, frozen=True, kw_only=True):
    """Tokens of the decoder; token t >= 3 stands for the units subwords[t - 3], unless `pronunciations` tell which."""

    units: Count = 200  # speech units are 0 .. units - 1
    pad: Annotated[int, Meta(ge=0, lt=SPECIAL_TOKENS)] = 0  # token id
    bos: Annotated[int, Meta(ge=0, lt=SPECIAL_TOKENS)] = 1  # token id
    eos: Annotated[int, Meta(ge=0, lt=SPECIAL_TOKENS)] = 2  # token id
    subwords: Annotated[list[list[int]], Meta(max_length=65_536)]  # units of each
    pronunciations: Pronunciations | None = None  # of tokens that are said in several ways
    keep_repeats: bool = False  # speak a unit that follows itself once more, with a duration of its own

    def __post_init__(self) -> None:
        if len({self.pad, self.bos, self.eos}) < SPECIAL_TOKENS:
            raise ValueError("pad, bos and eos must differ")
        units = [unit for subword in self.subwords for unit in subword]
        if [] in self.subwords or min(units, default=0) < 0 or max(units, default=0) >= self.units:
            raise ValueError(f"a subword is empty or holds a unit outside 0..{self.units - 1}")
        said = self.pronunciations.said if self.pronunciations else []
        if max((subword for *_, subword in said), default=-1) >= len(self.subwords):
            raise ValueError(f"a pronunciation is a subword outside 0..{len(self.subwords) - 1}")

    @property
    def size(self) -> int:
        """Tokens there are, the special ones included."""
        return len(self.pronunciations.first) if self.pronunciations else SPECIAL_TOKENS + len(self.subwords)


class VocoderConfig(Schema, frozen=True, kw_only=True):
    """Units of the vocoder, the context of its graphs on each side, and how durations are rounded."""

    sample_rate: int = SAMPLE_RATE  # Hz
    hop: int = HOP  # samples of a frame
    units: Count  # as the vocabulary
    context_frames: Annotated[int, Meta(ge=0, le=4_096)]  # frames to each side that a sample depends on
    duration_context: Annotated[int, Meta(ge=0, le=4_096)]  # units to each side that a duration depends on
    duration_tolerance: Annotated[float, Meta(gt=0.5, le=100)]  # frames, see im2sp.speech.durations.ErrorDiffusion

    def __post_init__(self) -> None:
        if (self.sample_rate, self.hop) != (SAMPLE_RATE, HOP):
            raise ValueError(f"im2sp speaks at {SAMPLE_RATE} Hz with {HOP} samples a frame")


class SpeechEncoderConfig(Schema, frozen=True):
    """Optional speech encoder; longer recordings are read in pieces of `samples_limit`."""

    units: Count  # as the vocabulary
    samples_limit: Annotated[int, Meta(ge=SAMPLE_RATE, le=600 * SAMPLE_RATE)] = 100 * SAMPLE_RATE  # of one piece


class DecodingDefaults(Schema, frozen=True):
    """Recommended decoding; see im2sp.decoding.options."""

    beam: Annotated[int, Meta(ge=1, le=64)]  # hypotheses; 1 is greedy
    length_penalty: Annotated[float, Meta(ge=0, le=10)]  # exponent of the length that divides a score
    max_tokens: Count  # of a caption
    max_repeats: Annotated[int, Meta(ge=0, le=65_536)] = 4  # copies in a row that are a loop; 0: loops are not cut
    early_stopping: bool = False  # end a beam search with as many complete sentences as hypotheses
    presence_penalty: Annotated[float, Meta(ge=0, le=100)] = 0.0  # logits that a token loses once it was said


class PCAConfig(Schema, frozen=True):
    """Principal components of the pooled image prefixes of training photos, see im2sp.confidence."""

    mean: Annotated[list[Number], Meta(min_length=1, max_length=4_096)]  # [width] of a pooled prefix
    components: Annotated[list[list[Number]], Meta(max_length=256)]  # [k][width], orthonormal
    deviations: Annotated[list[Scale], Meta(max_length=256)]  # [k], along the components

    def __post_init__(self) -> None:
        if len(self.components) != len(self.deviations) or len(self.components) >= len(self.mean):
            raise ValueError("there must be one deviation for each component, and fewer components than dimensions")
        if any(len(component) != len(self.mean) for component in self.components):
            raise ValueError("a component has not as many dimensions as the mean")


class ConfidenceConfig(Schema, frozen=True):
    """Calibration: a logistic regression over signals, and the speech that replaces an unlikely caption."""

    intercept: Number  # of the logistic regression
    weights: Annotated[dict[Signal, Number], Meta(min_length=1)]  # of its signals
    pca: PCAConfig
    threshold: Annotated[float, Meta(ge=0, le=1)]  # the recommended min_confidence
    abstain_units: Phrase  # spoken instead
    abstain_durations: PhraseDurations  # frames
    hedge_threshold: Annotated[float, Meta(ge=0, le=1)] | None = None  # below it, a hedge ("perhaps") fits the caption
    hedge_units: Phrase | None = None  # spoken before it
    hedge_durations: PhraseDurations | None = None  # frames
    photo_weights: Weights = field(default_factory=list)  # of coordinates along the components: whether it is a photo
    photo_intercept: Number = 0.0  # of that regression

    def __post_init__(self) -> None:
        if len(self.photo_weights) not in (0, len(self.pca.components)):
            raise ValueError("photo_weights has not as many weights as there are components")
        if len(self.abstain_units) != len(self.abstain_durations):
            raise ValueError("abstain_units and abstain_durations must have the same length")
        hedge = (self.hedge_threshold, self.hedge_units, self.hedge_durations)
        if 0 < hedge.count(None) < len(hedge):
            raise ValueError("hedge_threshold, hedge_units and hedge_durations belong together")
        if self.hedge_threshold is not None:
            if self.hedge_threshold < self.threshold:
                raise ValueError("hedge_threshold must not be below threshold")
            if len(self.hedge_units or ()) != len(self.hedge_durations or ()):
                raise ValueError("hedge_units and hedge_durations must have the same length")


class BundleConfig(Schema, frozen=True, kw_only=True):
    """config.json of a bundle; see docs/bundle.md."""

    format_version: int = FORMAT_VERSION  # no other is read
    name: str  # of the bundle
    version: str  # of the bundle
    description: str  # one sentence for people
    license: str  # of the weights
    language: str  # BCP 47 tag of the speech
    created: str  # date
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
        tokens = self.vocabulary.size
        if tokens != self.decoder.vocabulary_size:
            raise ValueError(f"the decoder has {self.decoder.vocabulary_size} tokens but the vocabulary has {tokens}")
        speakers = (self.vocoder, self.speech_encoder) if self.speech_encoder else (self.vocoder,)
        if any(part.units != self.vocabulary.units for part in speakers):
            raise ValueError("vocabulary, vocoder and speech encoder do not have the same number of units")
        if self.image.grid[0] * self.image.grid[1] > self.image.image_tokens:
            raise ValueError("the grid has more cells than there are image tokens")
        if self.decoding.max_tokens > self.decoder.max_tokens:
            raise ValueError("the recommended max_tokens is more than the decoder has positions")
        positions = self.image.image_tokens + self.decoding.beam * self.decoding.max_tokens
        cache = 8 * self.decoder.layers * self.decoder.heads * self.decoder.head_dim * positions
        if cache > CACHE_LIMIT:
            raise ValueError(
                f"the KV cache of a caption would take {cache / 1e9:.1f} GB, where im2sp takes "
                f"{CACHE_LIMIT / 1e9:.1f} at most"
            )
        if self.confidence:
            phrases = {
                "abstain_units": self.confidence.abstain_units,
                "hedge_units": self.confidence.hedge_units or [0],
            }
            for name, units in phrases.items():
                if max(units) >= self.vocabulary.units:
                    raise ValueError(f"confidence.{name} holds a unit outside 0..{self.vocabulary.units - 1}")
            if len(self.confidence.pca.mean) != self.decoder.heads * self.decoder.head_dim:
                raise ValueError("confidence.pca.mean has not heads x head_dim dimensions")

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
