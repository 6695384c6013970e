"""Captioner: a photo in, a spoken caption out. The whole pipeline on one screen, and no text in it."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import asdict

from im2sp.arrays import SAMPLE_RATE, FloatArray, IntArray
from im2sp.bundle import Bundle, ImageUnitsConfig, find_bundle
from im2sp.confidence import Confidence, Thresholds
from im2sp.decoding.cache import KVCache
from im2sp.decoding.decoder import DecoderStep, Prefix
from im2sp.decoding.options import DecodingOptions, DecodingResult
from im2sp.decoding.search import DecodingTask
from im2sp.decoding.vocabulary import Vocabulary
from im2sp.errors import BundleError, Im2SpError
from im2sp.image.encoder import ImageEncoder
from im2sp.image.units import ImageUnits
from im2sp.onnx import Graphs
from im2sp.speech.encoder import SpeechEncoder
from im2sp.speech.vocoder import Speech, StreamingVocoder, Vocoder, join_speech

if TYPE_CHECKING:
    import numpy.typing as npt

    from im2sp.image.loading import ImageSource


@dataclass(frozen=True)
class SpeechCaption:
    """Caption of one image as speech."""

    waveform: FloatArray  # float32 [samples], in [-1, 1]
    sample_rate: int  # Hz
    units: IntArray  # int64 [U], repeats removed, but where a hedge ends
    durations: IntArray  # int64 [U], frames of 20 ms
    score: float  # mean log probability of a token
    tokens: IntArray  # int64 [T]; of the sentence that was decoded, also where the captioner abstained
    attention: FloatArray  # float32 [T, image_tokens]: where the model looked when it chose each token
    seconds: float  # time taken
    confidence: float | None = None  # calibrated probability that the tokens are right; None: not calibrated
    hedge_units: int = 0  # so many units, the first ones, say "perhaps" before the caption
    abstained: bool = False  # unlikely to be right: waveform, units and durations say that it cannot be told

    @property
    def hedged(self) -> bool:
        """Whether a hedge was spoken before the caption."""
        return self.hedge_units > 0

    def save(self, path: str | Path) -> None:
        """Write a 16-bit mono WAV, whole or not at all. Raises Im2SpError when `path` cannot be written."""
        from im2sp.speech.audio import write_wav

        write_wav(Path(path), self.waveform)


@dataclass(frozen=True)
class SpeechChunk:
    """A stretch of a streamed caption that follows the one before it without a gap."""

    waveform: FloatArray  # float32 [samples], 16 kHz, in [-1, 1]
    units: IntArray  # int64 [U], U >= 0: those whose last sample is in this chunk
    durations: IntArray  # int64 [U], frames of 20 ms
    caption: SpeechCaption | None = None  # the whole caption, with the last chunk only


class Captioner:
    """Photos -> image tokens -> speech units -> waveform, with the graphs of one bundle.

    In a bundle with image units every photo goes through them, so stored units give the same caption as the photo.
    """

    def __init__(self, bundle: Bundle, *, threads: int = 0, graphs: Graphs | None = None) -> None:
        """`graphs`: those of the bundle, where they are being opened already; they have their own `threads`."""
        config = bundle.config
        self.bundle = bundle
        self.graphs = graphs or Graphs(bundle, threads)
        self.vocabulary = Vocabulary(config.vocabulary)
        self.vocoder = Vocoder(self.graphs, config.vocoder)
        self.image_encoder = ImageEncoder(self.graphs, bundle)
        self._confidence = Confidence(config.confidence) if config.confidence else None
        self.default_options = DecodingOptions(**asdict(config.decoding))

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | Path = "default", *, revision: str | None = None, threads: int = 0
    ) -> Captioner:
        """Load a packaged bundle ("default"), a bundle folder, or `owner/name` from the hub.

        `revision`: branch, tag or commit of one on the hub. `threads`: CPU threads; 0 takes the cores that this
        process may use. Checksums and config are verified here, each graph when it is first needed. Raises BundleError
        for a bundle that is missing, damaged, of another format or inconsistent, or that cannot be fetched.
        """
        return cls(Bundle.load(find_bundle(name_or_dir, revision)), threads=threads)

    def caption(
        self, image: ImageSource | ImageUnits | Prefix, options: DecodingOptions | None = None
    ) -> SpeechCaption:
        """Caption an image: a path, bytes, binary file, PIL image or uint8 array [H, W], [H, W, 3] or [H, W, 4]; its
        image units; or what `encode` made of it.

        A calibrated bundle with a hedge gives one of three answers: the caption; "perhaps" before it, where it is
        doubtful; or its sentence for "I cannot tell what this shows", where it is unlikely to be right or less likely
        than `min_confidence`. With `always_speak` it is always the caption.

        Raises ImageError for an image that cannot be read and for units of another tokenizer, BundleError for units
        where the bundle has none, Im2SpError for a `min_confidence` with a bundle that has no calibration.
        """
        started = time.perf_counter()
        options = options or self.default_options
        self.check(options)
        prefix = self._prefix(image)
        result = self.decode(prefix, options)
        confidence = self.confidence(prefix, result)
        answer = self._thresholds(options).answer(confidence)
        if answer == "abstained":
            return _caption(result, self._abstention, started, confidence, abstained=True)
        speech = self.speak(self.vocabulary.decode(result.tokens))
        return _caption(result, speech, started, confidence, hedge=self._hedge if answer == "hedged" else None)

    def stream(
        self, image: ImageSource | ImageUnits | Prefix, options: DecodingOptions | None = None
    ) -> Generator[SpeechChunk, None, None]:
        """Caption an image in chunks while the rest of the sentence is still being decoded; greedily by default.

        Joined, the chunks equal `caption` with the same options: tokens, units and durations exactly, samples to 1e-5.
        The first chunk is short. The last carries the whole caption, whose `seconds` include the caller's time between
        chunks. With a beam, only the common prefix of all hypotheses is spoken, so speech starts later. Where the
        answer depends on the confidence, doubt comes first, so speech starts when the sentence is decoded. Close the
        generator to stop early.

        Raises what `caption` raises: here, not when the first chunk is asked for.
        """
        started = time.perf_counter()
        options = options or replace(self.default_options, beam=1)
        self.check(options)
        return self._chunks(self._prefix(image), options, started)

    def tokenize(self, image: ImageSource) -> IntArray:
        """Tokenize an image: image units int64 [units], as `image_tokenizer` describes them.

        `ImageUnits(units, captioner.image_tokenizer)` is what `caption`, `stream` and `encode` take. Raises ImageError
        for an image that cannot be read, BundleError when the bundle has no image units.
        """
        return self.image_encoder.tokenize(image)

    @property
    def image_tokenizer(self) -> ImageUnitsConfig:
        """The image tokenizer of this bundle. Raises BundleError when it has none."""
        return self.bundle.image_tokenizer

    def reconstruct(self, image: ImageUnits) -> npt.NDArray[np.uint8]:
        """Decode image units into pixels: uint8 [height, width, 3].

        Raises BundleError when the bundle has no image decoder, ImageError for units of another tokenizer.
        """
        return self.image_encoder.reconstruct(image)

    def encode(self, image: ImageSource | ImageUnits) -> Prefix:
        """Encode an image or its image units: keys and values float32 [layers, 1, heads, image_tokens, head_dim].

        Raises what `caption` raises.
        """
        return self.image_encoder.encode(image)

    def pixels(self, image: ImageSource) -> FloatArray:
        """Load, resize and normalise an image: float32 [3, height, width]. Raises ImageError."""
        return self.image_encoder.pixels(image)

    def encode_pixels(self, pixels: FloatArray) -> list[Prefix]:
        """Encode several images at once: pixels float32 [batch, 3, height, width] -> one prefix each."""
        return self.image_encoder.encode_pixels(pixels)

    def decode(self, prefix: Prefix, options: DecodingOptions | None = None) -> DecodingResult:
        """Decode an image prefix into tokens of speech units."""
        return self._task(prefix, options or self.default_options).run(self.bundle.config.decoder.max_tokens)

    def confidence(self, prefix: Prefix, result: DecodingResult) -> float | None:
        """Compute the calibrated probability that a decoded caption is right; None without calibration.

        It was fitted to the bundle's recommended decoding; other options have other odds.
        """
        return self._confidence.probability(prefix, result) if self._confidence else None

    def speak(self, units: Sequence[int] | IntArray, durations: Sequence[int] | IntArray | None = None) -> Speech:
        """Synthesize units int64 [U]; durations (int64 [U], frames of 20 ms) are predicted unless given."""
        return self.vocoder.speak(units, durations)

    def units(self, waveform: FloatArray) -> IntArray:
        """Encode speech: waveform float32 [samples] at 16 kHz -> units int64 [F] at 50 Hz, repeats kept.

        Raises BundleError when the bundle has no speech encoder.
        """
        config = self.bundle.config.speech_encoder
        if config is None:
            raise BundleError(f"the bundle {self.bundle.folder} has no speech encoder: use a bundle that has one")
        return SpeechEncoder(self.graphs.open("speech_encoder"), config).units(np.asarray(waveform))

    def check(self, options: DecodingOptions) -> None:
        """Raise Im2SpError for a `min_confidence` with a bundle that has no calibration."""
        if options.min_confidence and self._confidence is None:
            raise Im2SpError(
                f"the bundle {self.bundle.folder} has no calibrated confidence: leave min_confidence out, or use a "
                "bundle that was calibrated"
            )

    def _prefix(self, image: ImageSource | ImageUnits | Prefix) -> Prefix:
        return image if isinstance(image, Prefix) else self.encode(image)

    def _task(self, prefix: Prefix, options: DecodingOptions) -> DecodingTask[KVCache]:
        step = DecoderStep(self.graphs.open("decoder"), self.bundle.config.decoder, prefix)
        return DecodingTask(step, self.vocabulary.specials, options)

    def _thresholds(self, options: DecodingOptions) -> Thresholds:
        return Thresholds.of(self.bundle.config.confidence, options)

    @cached_property
    def _abstention(self) -> Speech:
        """The speech that replaces a caption when the captioner abstains."""
        config = self.bundle.config.confidence
        assert config is not None  # `check` saw to it
        return self.speak(config.abstain_units, config.abstain_durations)

    @cached_property
    def _hedge(self) -> Speech:
        """The speech before a doubtful caption."""
        config = self.bundle.config.confidence
        assert config is not None
        assert config.hedge_units is not None  # as there is a threshold
        return self.speak(config.hedge_units, config.hedge_durations)

    def _chunks(self, prefix: Prefix, options: DecodingOptions, started: float) -> Generator[SpeechChunk, None, None]:
        task, streaming = self._task(prefix, options), StreamingVocoder(self.vocoder)
        thresholds = self._thresholds(options)
        for _ in task.steps(self.bundle.config.decoder.max_tokens):
            if not thresholds.decide:
                for speech in streaming.extend(self.vocabulary.decode(task.stable_prefix())):
                    yield SpeechChunk(speech.waveform, speech.units, speech.durations)
        result = task.result()
        confidence = self.confidence(prefix, result)
        answer = thresholds.answer(confidence)
        if answer == "abstained":
            caption = _caption(result, self._abstention, started, confidence, abstained=True)
            yield SpeechChunk(caption.waveform, caption.units, caption.durations, caption)
            return
        hedge = self._hedge if answer == "hedged" else None
        if hedge:
            yield SpeechChunk(hedge.waveform, hedge.units, hedge.durations)
        for speech in streaming.finish(self.vocabulary.decode(result.tokens)):
            whole = (
                _caption(result, streaming.speech, started, confidence, hedge=hedge) if streaming.is_finished else None
            )
            yield SpeechChunk(speech.waveform, speech.units, speech.durations, whole)


def _caption(
    result: DecodingResult,
    speech: Speech,
    started: float,
    confidence: float | None,
    *,
    hedge: Speech | None = None,
    abstained: bool = False,
) -> SpeechCaption:
    if hedge:
        speech = join_speech(hedge, speech)
    return SpeechCaption(
        waveform=speech.waveform,
        sample_rate=SAMPLE_RATE,
        units=speech.units,
        durations=speech.durations,
        score=result.score,
        tokens=result.tokens,
        attention=result.attention,
        seconds=time.perf_counter() - started,
        confidence=confidence,
        hedge_units=len(hedge.units) if hedge else 0,
        abstained=abstained,
    )
