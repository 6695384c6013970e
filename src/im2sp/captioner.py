"""Captioner: a photo in, a spoken caption out. The whole pipeline on one screen, and no text in it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from msgspec.structs import asdict

from im2sp.arrays import SAMPLE_RATE, FloatArray, IntArray
from im2sp.bundle import Bundle, ImageUnitsConfig, find_bundle
from im2sp.confidence import Answer, Confidence, Thresholds, share_in_words
from im2sp.decoding.decoder import DecoderStep, Prefix
from im2sp.decoding.options import DecodingOptions, DecodingResult
from im2sp.decoding.search import DecodingTask
from im2sp.decoding.vocabulary import Vocabulary
from im2sp.errors import BundleError, Im2SpError
from im2sp.image.encoder import ImageEncoder
from im2sp.image.units import ImageUnits
from im2sp.onnx import Graphs
from im2sp.speech.encoder import SpeechEncoder
from im2sp.speech.units import check_units, without_repeats
from im2sp.speech.vocoder import Speech, StreamingVocoder, Vocoder, join_speech

BATCH = 8  # images that the encoder takes at once

if TYPE_CHECKING:
    import numpy.typing as npt

    from im2sp.image.loading import ImageSource


@dataclass(frozen=True, eq=False, repr=False)
class SpeechCaption:
    """Caption of one image as speech. Two captions are equal only if they are the same object."""

    waveform: FloatArray  # float32 [samples], in [-1, 1]
    sample_rate: int  # Hz
    units: IntArray  # int64 [U], repeats removed unless the vocabulary of the bundle keeps them, but where a hedge ends
    durations: IntArray  # int64 [U], frames of 20 ms
    score: float  # mean log probability of a token
    tokens: IntArray  # int64 [T]; of the sentence that was decoded, also where the captioner abstained
    attention: FloatArray  # float32 [T, image_tokens]: where the model looked when it chose each token
    seconds: float  # time taken
    confidence: float | None = None  # calibrated probability that the tokens are right; None: not calibrated
    hedge_units: int = 0  # so many units, the first ones, say "perhaps" before the caption
    abstained: bool = False  # unlikely to be right: waveform, units and durations say that it cannot be told
    image: ImageSource | None = None  # what was captioned, for notebooks; None for image units and prefixes

    @property
    def hedged(self) -> bool:
        """Whether a hedge was spoken before the caption."""
        return self.hedge_units > 0

    def save(self, target: str | Path | BinaryIO) -> None:
        """Write a 16-bit mono WAV to a path, whole or not at all, or to a binary file. Raises AudioError."""
        from im2sp.speech.audio import write_wav

        if isinstance(target, str | Path):
            write_wav(target, self.waveform)
        else:
            target.write(self.to_wav_bytes())

    def to_wav_bytes(self) -> bytes:
        """Return the bytes of a 16-bit mono WAV file."""
        from im2sp.speech.audio import encode_wav

        return encode_wav(self.waveform)

    def __repr__(self) -> str:
        confidence = "" if self.confidence is None else f", confidence {self.confidence:.2f}"
        seconds = len(self.waveform) / self.sample_rate
        answer = ", abstained" if self.abstained else ", hedged" if self.hedged else ""
        return f"<SpeechCaption: {seconds:.1f} s, {len(self.units)} units{confidence}{answer}>"

    def _repr_html_(self) -> str:
        """Return the photo, a player and the confidence, as notebooks show them."""
        from im2sp.notebook import render_caption

        share = "" if self.confidence is None else f"{share_in_words(self.confidence)}."
        return render_caption(self.image, self.to_wav_bytes(), share.capitalize())


@dataclass(frozen=True, eq=False)
class SpeechChunk:
    """A stretch of a streamed caption that follows the one before it without a gap."""

    waveform: FloatArray = field(repr=False)  # float32 [samples], 16 kHz, in [-1, 1]
    units: IntArray = field(repr=False)  # int64 [U], U >= 0: those whose last sample is in this chunk
    durations: IntArray = field(repr=False)  # int64 [U], frames of 20 ms
    caption: SpeechCaption | None = None  # the whole caption, with the last chunk only


class Captioner:
    """Photos -> image tokens -> speech units -> waveform, with the graphs of one bundle."""

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

        `revision`: branch, tag or commit on the hub. `threads`: CPU threads; 0 takes the cores that this process may
        use. Raises BundleError for a bundle that is missing, damaged or inconsistent, or that cannot be fetched.
        """
        return cls(Bundle.load(find_bundle(name_or_dir, revision)), threads=threads)

    def caption(
        self, image: ImageSource | ImageUnits | Prefix, options: DecodingOptions | None = None
    ) -> SpeechCaption:
        """Caption an image: a path, bytes, binary file, PIL image or array; its image units; or what `encode` returns.

        An array is uint8 [H, W], [H, W, 3] or [H, W, 4], in RGB order; OpenCV has BGR: `array[:, :, ::-1]`.

        A calibrated bundle says "perhaps" before a doubtful caption, and that it cannot tell in place of an unlikely
        one, or one less likely than `min_confidence`; not so with `always_speak`.

        Raises ImageError for an image that cannot be read and for units of another tokenizer, BundleError for units
        where the bundle has none, Im2SpError for a `min_confidence` with a bundle that has no calibration.
        """
        started = time.perf_counter()
        options = options or self.default_options
        self.check(options)
        prefix = self._prefix(image)
        result = self.decode(prefix, options)
        confidence = self.confidence(prefix, result)
        phrase = self._phrase(self._thresholds(options).answer(confidence), options)
        speech = phrase.speech
        if not phrase.abstained:
            speech = join_speech(speech, self.vocoder.speak(self.vocabulary.decode(result.tokens), rate=options.rate))
        return _caption(result, speech, phrase, confidence, started, _shown(image))

    def caption_batch(
        self, images: Iterable[ImageSource], options: DecodingOptions | None = None
    ) -> list[SpeechCaption]:
        """Caption several images, BATCH of them at once in the encoder. Raises what `caption` raises for the first."""
        captions: list[SpeechCaption] = []
        left = iter(images)
        while batch := list(islice(left, BATCH)):
            pixels = np.stack([self.image_encoder.pixels(image) for image in batch])
            prefixes = self.image_encoder.encode_pixels(pixels)
            for image, prefix in zip(batch, prefixes, strict=True):
                captions.append(replace(self.caption(prefix, options), image=_shown(image)))
        return captions

    def stream(
        self, image: ImageSource | ImageUnits | Prefix, options: DecodingOptions | None = None
    ) -> Generator[SpeechChunk, None, None]:
        """Caption an image in chunks while the rest of the sentence is still being decoded; greedily by default.

        Joined, the chunks equal `caption` with the same options: tokens, units and durations exactly, samples to 1e-5.
        The last carries the whole caption. With a beam, speech starts later; where doubt comes first, when the sentence
        is decoded. Close the generator to stop early.

        Raises what `caption` raises: here, not when the first chunk is asked for.
        """
        started = time.perf_counter()
        options = options or replace(self.default_options, beam=1)
        self.check(options)
        return self._chunks(self._prefix(image), options, started, _shown(image))

    def tokenize(self, image: ImageSource) -> IntArray:
        """Tokenize an image: image units int64 [units], as `image_tokenizer` describes them.

        `ImageUnits(units, captioner.image_tokenizer)` says what the photo says. Raises ImageError for an image that
        cannot be read, BundleError when the bundle has no image units.
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
        """Encode an image or its image units. Raises what `caption` raises."""
        return self.image_encoder.encode(image)

    def decode(self, prefix: Prefix, options: DecodingOptions | None = None) -> DecodingResult:
        """Decode an image prefix into tokens of speech units."""
        return self._task(prefix, options or self.default_options).run(self.bundle.config.decoder.max_tokens)

    def confidence(self, prefix: Prefix, result: DecodingResult) -> float | None:
        """Compute the probability that a caption is right, calibrated for the recommended decoding, if it is at all."""
        return self._confidence.probability(prefix, result) if self._confidence else None

    def speak(
        self, units: Sequence[int] | IntArray, durations: Sequence[int] | IntArray | None = None, rate: float = 1.0
    ) -> Speech:
        """Synthesize units int64 [U] with durations int64 [U] in frames of 20 ms; without, repeats go first and
        durations are predicted.

        `rate`: how fast to speak; durations are divided by it.
        """
        if durations is None:
            units = without_repeats(check_units(units, self.vocabulary.units))
        return self.vocoder.speak(units, durations, rate)

    def units(self, waveform: FloatArray) -> IntArray:
        """Encode speech: waveform float32 [samples] at 16 kHz -> units int64 [F] at 50 Hz, repeats kept.

        Raises BundleError when the bundle has no speech encoder.
        """
        config = self.bundle.config.speech_encoder
        if config is None:
            raise BundleError(f"the bundle {self.bundle.folder} has no speech encoder: use a bundle that has one")
        return SpeechEncoder(self.graphs.open("speech_encoder"), config).units(waveform)

    def check(self, options: DecodingOptions) -> None:
        """Raise Im2SpError for a `min_confidence` with a bundle that has no calibration."""
        if options.min_confidence and self._confidence is None:
            raise Im2SpError(
                f"the bundle {self.bundle.folder} has no calibrated confidence: leave min_confidence out, or use a "
                "bundle that was calibrated"
            )

    def _prefix(self, image: ImageSource | ImageUnits | Prefix) -> Prefix:
        return image if isinstance(image, Prefix) else self.encode(image)

    def _task(self, prefix: Prefix, options: DecodingOptions) -> DecodingTask:
        return DecodingTask(
            self._step(prefix), self.vocabulary.specials, options, prefix.token_bonus, prefix.token_evidence
        )

    def _step(self, prefix: Prefix) -> DecoderStep:
        return DecoderStep(self.graphs.open("decoder"), self.bundle.config.decoder, prefix)

    def _thresholds(self, options: DecodingOptions) -> Thresholds:
        return Thresholds.of(self.bundle.config.confidence, options)

    def _phrase(self, answer: Answer, options: DecodingOptions) -> _Phrase:
        """Return what is said before the caption, or in its place."""
        config = self.bundle.config.confidence
        if answer == "abstained" and config:
            return _Phrase(self.speak(config.abstain_units, config.abstain_durations, options.rate), abstained=True)
        if answer == "hedged" and config and config.hedge_units:
            return _Phrase(self.speak(config.hedge_units, config.hedge_durations, options.rate))
        return _Phrase(Speech(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64)))

    def _chunks(
        self, prefix: Prefix, options: DecodingOptions, started: float, image: ImageSource | None
    ) -> Generator[SpeechChunk, None, None]:
        task, streaming = self._task(prefix, options), StreamingVocoder(self.vocoder, options.rate)
        thresholds = self._thresholds(options)
        for _ in task.steps(self.bundle.config.decoder.max_tokens):
            if not thresholds.decide:
                for speech in streaming.extend(self.vocabulary.decode(task.stable_prefix(), ended=False)):
                    yield SpeechChunk(speech.waveform, speech.units, speech.durations)
        result = task.result()
        confidence = self.confidence(prefix, result)
        phrase = self._phrase(thresholds.answer(confidence), options)
        first = phrase.speech
        if phrase.abstained:
            caption = _caption(result, first, phrase, confidence, started, image)
            yield SpeechChunk(first.waveform, first.units, first.durations, caption)
            return
        if len(first.units):
            yield SpeechChunk(first.waveform, first.units, first.durations)
        for speech in streaming.finish(self.vocabulary.decode(result.tokens)):
            whole = None
            if streaming.is_finished:
                whole = _caption(result, join_speech(first, streaming.speech), phrase, confidence, started, image)
            yield SpeechChunk(speech.waveform, speech.units, speech.durations, whole)


def _shown(image: ImageSource | ImageUnits | Prefix) -> ImageSource | None:
    """Return what a notebook can show again: not a file object, which has been read."""
    return None if isinstance(image, ImageUnits | Prefix) or hasattr(image, "read") else image


@dataclass(frozen=True)
class _Phrase:
    """What is said before a caption, which may be nothing, or in its place."""

    speech: Speech
    abstained: bool = False


def _caption(
    result: DecodingResult,
    speech: Speech,
    phrase: _Phrase,
    confidence: float | None,
    started: float,
    image: ImageSource | None,
) -> SpeechCaption:
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
        hedge_units=0 if phrase.abstained else len(phrase.speech.units),
        abstained=phrase.abstained,
        image=image,
    )
