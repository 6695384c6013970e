"""Options and result of decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from im2sp.arrays import FloatArray, IntArray
from im2sp.errors import Im2SpError

Ending = Literal["eos", "loop", "length"]  # by itself, cut at a loop, cut at max_tokens


@dataclass(frozen=True)
class DecodingOptions:
    """How to decode. `Captioner.default_options` holds what the bundle recommends."""

    beam: int = 5  # hypotheses side by side; 1 is greedy search
    length_penalty: float = 1.0  # hypotheses rank by log probability / length ** length_penalty
    temperature: float = 0.0  # above 0: sample (without a beam) from logits / temperature
    seed: int = 0  # of the sampling
    max_tokens: int = 512  # tokens of a sentence, its end included; the decoder's own limit holds too
    min_tokens: int = 1  # the sentence cannot end by itself before so many tokens
    max_repeats: int = 4  # so many copies of a token sequence in a row are a loop; 0: loops are not cut
    early_stopping: bool = False  # end a beam search as soon as `beam` sentences are complete, whatever may follow
    presence_penalty: float = 0.0  # logits that a content token loses once the sentence holds it
    min_confidence: float | None = None  # below it the captioner abstains; None: as the bundle recommends
    always_speak: bool = False  # speak every caption as it is, without hedge or abstention
    rate: float = 1.0  # how fast it speaks: predicted durations are divided by it, the pitch stays

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # also refuses NaN
                raise Im2SpError(f"{name} is {value}: give a value from {low} to {high}")
        if self.max_repeats == 1:
            raise Im2SpError("max_repeats is 1, and everything is there once: give 0 for no rule, or 2 and more")
        if self.always_speak and self.min_confidence:
            raise Im2SpError("a captioner that always speaks has no min_confidence: give one of the two")


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("beam", 1, 64),
    ("length_penalty", 0, 10),
    ("temperature", 0, 100),
    ("seed", 0, 2**63),
    ("max_tokens", 1, 2**31),
    ("min_tokens", 0, 2**31),
    ("max_repeats", 0, 2**31),
    ("presence_penalty", 0, 100),
    ("rate", 0.5, 3),
    ("min_confidence", 0, 1),
)


@dataclass(frozen=True)
class DecodingResult:
    """The decoded sentence."""

    tokens: IntArray  # int64 [T], T >= 1, without special tokens
    attention: FloatArray  # float32 [T, image_tokens]: where the model looked when it chose each token
    log_probabilities: FloatArray  # float32 [T], or [T + 1] with the end of the sentence
    score: float  # their mean
    ending: Ending
