"""Captioner: a photo in, a spoken caption out. The whole pipeline on one screen, and no text in it."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec.structs import asdict

from im2sp.arrays import FloatArray, IntArray
from im2sp.bundle import Bundle, ImageUnitsConfig, find_bundle
from im2sp.confidence import Confidence
from im2sp.decoding.cache import KVCache
from im2sp.decoding.decoder import DecoderStep, Prefix
from im2sp.decoding.search import DecodingOptions, DecodingResult, DecodingTask
from im2sp.decoding.vocabulary import Vocabulary
from im2sp.errors import BundleError, Im2SpError
from im2sp.image.units import ImageUnits
from im2sp.onnx import Graphs
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.speech.encoder import SpeechEncoder
from im2sp.speech.vocoder import Speech, Vocoder
from im2sp.streaming import GrowingSpeech, SpeechChunk

if TYPE_CHECKING:
    from im2sp.image.loading import ImageSource


@dataclass(frozen=True)
class SpeechCaption:
    """What is said about a picture."""

    waveform: FloatArray  # float32 [samples], in [-1, 1]
    sample_rate: int  # Hz
    units: IntArray  # int64 [U], repeats removed
    durations: IntArray  # int64 [U], frames of 20 ms
    score: float  # mean log probability of a token
    tokens: IntArray  # int64 [T]; of the sentence that was not said, where it is abstained
    attention: FloatArray  # float32 [T, image_tokens]: where the model looked when it chose each token
    seconds: float  # time taken
    confidence: float | None = None  # calibrated probability that the tokens are right; None: not calibrated
    abstained: bool = False  # less than `min_confidence`: waveform, units and durations say "I am not sure" instead

    def save(self, path: str | Path) -> None:
        """Write a 16-bit mono WAV, whole or not at all. Raises Im2SpError when `path` cannot be written."""
        from im2sp.speech.audio import write_wav

        write_wav(Path(path), self.waveform)


class Captioner:
    """Photos -> image tokens -> speech units -> waveform, with the graphs of one bundle.

    In a bundle with image units every photo goes through them, so stored units say what the photo says.
    """

    def __init__(self, bundle: Bundle, *, threads: int = 0, graphs: Graphs | None = None) -> None:
        """`graphs`: those of the bundle, where they are being opened already; they have their own `threads`."""
        config = bundle.config
        self.bundle = bundle
        self.graphs = graphs or Graphs(bundle, threads)
        self.vocabulary = Vocabulary(config.vocabulary)
        self.vocoder = Vocoder(self.graphs, config.vocoder)
        self._confidence = Confidence(config.confidence) if config.confidence else None
        self.default_options = DecodingOptions(**asdict(config.decoding))

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | Path = "default", *, revision: str | None = None, threads: int = 0
    ) -> Captioner:
        """The captioner of a packaged bundle ("default"), of a bundle folder, or of `owner/name` on the hub.

        `revision`: branch, tag or commit of the one on the hub; a commit names the same files for ever. `threads`:
        CPU threads; 0 takes the cores that this process may use. Checksums and config are verified here, each graph
        when it is first needed. Raises BundleError for a bundle that is missing, damaged, too new or inconsistent, or
        that cannot be fetched.
        """
        return cls(Bundle.load(find_bundle(name_or_dir, revision)), threads=threads)

    def caption(
        self, image: ImageSource | ImageUnits | Prefix, options: DecodingOptions | None = None
    ) -> SpeechCaption:
        """Speak about a picture: a path, bytes, binary file, PIL image or uint8 array [H, W], [H, W, 3] or [H, W, 4];
        its image units, or what `encode` made of it. With `min_confidence`, a caption that is less likely to be right
        is abstained, and the speech is the bundle's sentence for "I am not sure what this shows".

        Raises ImageError for a picture that cannot be read and for units of another tokenizer, BundleError for units
        where the bundle has none, Im2SpError for a `min_confidence` with a bundle that has no calibration.
        """
        started = time.perf_counter()
        options = options or self.default_options
        self.check(options)
        prefix = self._seen(image)
        result = self.decode(prefix, options)
        confidence = self.confidence(prefix, result)
        abstained = _is_abstained(confidence, options)
        speech = self._abstention if abstained else self.speak(self.vocabulary.decode(result.tokens))
        return _caption(result, speech, started, confidence, abstained)

    def stream(
        self, image: ImageSource | ImageUnits | Prefix, options: DecodingOptions | None = None
    ) -> Generator[SpeechChunk, None, None]:
        """Speak about a picture while the rest of the sentence is still being decided; without options, greedily.

        Joined, the chunks are what `caption` says with the same options: tokens, units and durations are equal,
        samples to 1e-5. The first chunk is short, the last carries the whole caption, whose `seconds` count what
        the caller did between chunks, too. With a beam, only what all hypotheses agree on is spoken, so speech
        starts later. With `min_confidence`, nothing is spoken before the whole sentence is decided and known to be
        sure enough; what is said instead of a abstained one comes as one chunk. Close the generator to stop early.

        Raises what `caption` raises: here, not when the first chunk is asked for.
        """
        started = time.perf_counter()
        options = options or replace(self.default_options, beam=1)
        self.check(options)
        return self._chunks(self._seen(image), options, started)

    def encode(self, image: ImageSource | ImageUnits) -> Prefix:
        """What is in it: a picture or its image units -> keys and values float32 [layers, 1, heads, image_tokens,
        head_dim].

        Raises what `caption` raises.
        """
        if isinstance(image, ImageUnits):
            return self._prefixes("image_decoder_prefix", image_units=self._trusted(image)[None])[0]
        return self.encode_pixels(self.pixels(image)[None])[0]

    def image_units(self, image: ImageSource) -> IntArray:
        """A picture as image units: int64 [units], as `image_tokenizer` describes them.

        `ImageUnits(units, captioner.image_tokenizer)` is what `caption`, `stream` and `encode` take. Raises ImageError
        for a picture that cannot be read, BundleError when the bundle has no image units.
        """
        tokenizer = self.image_tokenizer  # before the picture is read
        units: IntArray = self._tokenize(tokenizer, self.pixels(image)[None])[0]
        return units

    @property
    def image_tokenizer(self) -> ImageUnitsConfig:
        """What makes the image units of this bundle. Raises BundleError when it has none."""
        return self.bundle.image_tokenizer

    def reconstruct(self, image: ImageUnits) -> npt.NDArray[np.uint8]:
        """What image units still hold of the picture: uint8 [height, width, 3].

        Raises BundleError when the bundle has no image decoder, ImageError for units of another tokenizer.
        """
        if not self.image_tokenizer.reconstructs:
            raise BundleError(f"the bundle {self.bundle.folder} has no image decoder: use a bundle that has one")
        graph, size = self.graphs.open("image_decoder"), self.bundle.config.image
        (pixels,) = graph.run(image_units=self._trusted(image)[None])
        if pixels.shape != (1, 3, size.height, size.width):
            raise BundleError(f"{graph.label} gave pixels {list(pixels.shape)}: export it again")
        grey_levels = np.rint(np.nan_to_num(pixels[0]).clip(0, 1) * 255)
        return np.ascontiguousarray(grey_levels.astype(np.uint8).transpose(1, 2, 0))

    def pixels(self, image: ImageSource) -> FloatArray:
        """A picture as the image encoder or tokenizer wants it: float32 [3, height, width]. Raises ImageError."""
        from im2sp.image.loading import load_image, to_pixels

        size = self.bundle.config.image
        return to_pixels(load_image(image), size.height, size.width, size.mean, size.std)

    def encode_pixels(self, pixels: FloatArray) -> list[Prefix]:
        """Several pictures at once: pixels float32 [batch, 3, height, width] -> as `encode`, one for each."""
        tokenizer = self.bundle.config.image_units
        if tokenizer is None:
            return self._prefixes("image_encoder", pixels=pixels)
        return self._prefixes("image_decoder_prefix", image_units=self._tokenize(tokenizer, pixels))

    def decode(self, prefix: Prefix, options: DecodingOptions | None = None) -> DecodingResult:
        """What to say: the image prefix -> tokens of speech units."""
        return self._search(prefix, options or self.default_options).run(self.bundle.config.decoder.max_tokens)

    def confidence(self, prefix: Prefix, result: DecodingResult) -> float | None:
        """Calibrated probability that what was decoded from an image prefix is right; None without calibration.

        It was fitted to what the bundle's recommended decoding says; other decoding gives other odds.
        """
        return self._confidence.probability(prefix, result) if self._confidence else None

    def speak(self, units: Sequence[int] | IntArray, durations: Sequence[int] | IntArray | None = None) -> Speech:
        """How it sounds: units int64 [U] -> speech; durations (frames of 20 ms) are predicted unless given."""
        return self.vocoder.speak(units, durations)

    def units(self, waveform: FloatArray) -> IntArray:
        """The way back: waveform float32 [samples] at 16 kHz -> units int64 [F] at 50 Hz, repeats kept.

        Raises BundleError when the bundle has no speech encoder.
        """
        config = self.bundle.config.speech_encoder
        if config is None:
            raise BundleError(f"the bundle {self.bundle.folder} has no speech encoder: use a bundle that has one")
        return SpeechEncoder(self.graphs.open("speech_encoder"), config).units(np.asarray(waveform))

    def _seen(self, image: ImageSource | ImageUnits | Prefix) -> Prefix:
        return image if isinstance(image, Prefix) else self.encode(image)

    def _trusted(self, image: ImageUnits) -> IntArray:
        image.check_made_by(self.image_tokenizer)
        return image.units

    def _tokenize(self, tokenizer: ImageUnitsConfig, pixels: FloatArray) -> IntArray:
        """pixels float32 [batch, 3, height, width] -> image units int64 [batch, units]."""
        graph = self.graphs.open("image_tokenizer")
        (units,) = graph.run(pixels=pixels)
        wanted = (len(pixels), tokenizer.units)
        if units.shape != wanted or units.min() < 0 or units.max() >= tokenizer.codebook_size:
            raise BundleError(
                f"{graph.label} gave image units {list(units.shape)} that are not {list(wanted)} or not within "
                f"0..{tokenizer.codebook_size - 1}: export it again"
            )
        return units

    def _prefixes(self, name: str, **inputs: FloatArray | IntArray) -> list[Prefix]:
        """The graph of that name on a batch -> one prefix for each picture."""
        size, decoder = self.bundle.config.image, self.bundle.config.decoder
        graph = self.graphs.open(name)
        keys, values = graph.run(**inputs)
        (batch,) = {len(array) for array in inputs.values()}
        wanted = (decoder.layers, batch, decoder.heads, size.image_tokens, decoder.head_dim)
        if keys.shape != wanted or values.shape != wanted:
            raise BundleError(f"{graph.label} gave keys {list(keys.shape)} instead of {list(wanted)}: export it again")
        each = range(batch)  # in one piece, or the decoder would copy the slice at every step
        return [Prefix(*(np.ascontiguousarray(part[:, i : i + 1]) for part in (keys, values))) for i in each]

    def check(self, options: DecodingOptions) -> None:
        """Raises Im2SpError for a `min_confidence` with a bundle that has no calibration."""
        if options.min_confidence > 0 and self._confidence is None:
            raise Im2SpError(
                f"the bundle {self.bundle.folder} has no calibrated confidence: leave min_confidence out, or use a "
                "bundle that was calibrated"
            )

    @cached_property
    def _abstention(self) -> Speech:
        """What is said instead of a caption that is abstained."""
        config = self.bundle.config.confidence
        assert config is not None  # `check` saw to it
        return self.speak(config.abstain_units, config.abstain_durations)

    def _search(self, prefix: Prefix, options: DecodingOptions) -> DecodingTask[KVCache]:
        step = DecoderStep(self.graphs.open("decoder"), self.bundle.config.decoder, prefix)
        return DecodingTask(step, self.vocabulary.specials, options)

    def _chunks(self, prefix: Prefix, options: DecodingOptions, started: float) -> Generator[SpeechChunk, None, None]:
        search, growing = self._search(prefix, options), GrowingSpeech(self.vocoder)
        for _ in search.steps(self.bundle.config.decoder.max_tokens):
            if not options.min_confidence:
                yield from growing.extend(self.vocabulary.decode(search.stable_prefix()))
        result = search.result()
        confidence = self.confidence(prefix, result)
        if _is_abstained(confidence, options):
            said = _caption(result, self._abstention, started, confidence, abstained=True)
            yield SpeechChunk(said.waveform, said.units, said.durations, said)
            return
        for chunk in growing.finish(self.vocabulary.decode(result.tokens)):
            whole = _caption(result, growing.speech, started, confidence) if growing.is_spoken else None
            yield replace(chunk, caption=whole)


def _is_abstained(confidence: float | None, options: DecodingOptions) -> bool:
    return confidence is not None and confidence < options.min_confidence


def _caption(
    result: DecodingResult, speech: Speech, started: float, confidence: float | None, abstained: bool = False
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
        abstained=abstained,
    )
