"""Answers: a caption or chunks of speech in, the bytes that a client asked for out."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from im2sp.arrays import FloatArray
from im2sp.captioner import Captioner, SpeechCaption
from im2sp.server.attention import Attention, attention_of
from im2sp.server.refusals import Refusal
from im2sp.speech.audio import SAMPLE_RATE, UNIT_RATE, encode_wav, to_pulses
from im2sp.streaming import SpeechChunk

WAV, JSON, PCM, LINES = "audio/wav", "application/json", "audio/L16", "application/x-ndjson"
PCM_TYPE = f"{PCM};rate={SAMPLE_RATE};channels=1"  # RFC 2586: big-endian
_ENDLESS = b"\xff" * 4  # the length in the header of a WAV whose length nobody knows yet
_WAV_HEADER = 44  # bytes

Confidence = Literal["sure", "fairly sure", "unsure", "a guess"]
_Scale = tuple[tuple[float, Confidence], ...]  # from so much on, in this word
_BY_PROBABILITY: _Scale = ((0.8, "sure"), (0.6, "fairly sure"), (0.4, "unsure"))
# exp(score) is the probability of a token in the (geometric) mean: above 70 %, 37 % and 20 %.
_BY_SCORE: _Scale = ((-0.36, "sure"), (-1.0, "fairly sure"), (-1.6, "unsure"))


class Answer(BaseModel):
    """What was said about a photo."""

    units: list[int] = Field(description="Speech units, repeats removed.")
    durations: list[int] = Field(description=f"Of each unit, in frames of {1000 // UNIT_RATE} ms.")
    score: float = Field(description="Mean log probability of a token; 0 is certain.")
    confidence: Confidence = Field(
        description="The probability in words; without one, the score in words, which says nothing about the truth."
    )
    probability: float | None = Field(
        default=None, description="That the caption is right. Only where the model is calibrated (docs/confidence.md)."
    )
    abstained: bool = Field(
        default=False, description="Less probable than `min_confidence`: the speech says that it is not sure."
    )
    speech_seconds: float = Field(description="Length of the speech.")
    seconds: float = Field(description="Time taken to make it.")
    sample_rate: int = Field(default=SAMPLE_RATE, description="Of the speech, in Hz.")
    wav: str | None = Field(default=None, description="The speech as a WAV file in base64, with `audio=true`.")
    attention: Attention | None = Field(default=None, description="Where the model looked, with `attention=true`.")


class ErrorAnswer(BaseModel):
    """Why there is no speech."""

    error: str = Field(description="One sentence: what was wrong, with what, what to do.")


def answer(caption: SpeechCaption, *, audio: bool = False, captioner: Captioner | None = None) -> Answer:
    """A caption in numbers, with `audio` in sound, and with the captioner that made it where that looked."""
    return Answer(
        units=caption.units.tolist(),
        durations=caption.durations.tolist(),
        score=caption.score,
        confidence=in_words(caption),
        probability=caption.confidence,
        abstained=caption.abstained,
        speech_seconds=len(caption.waveform) / SAMPLE_RATE,
        seconds=caption.seconds,
        wav=base64.b64encode(encode_wav(caption.waveform)).decode() if audio else None,
        attention=attention_of(caption, captioner) if captioner else None,
    )


def in_words(caption: SpeechCaption) -> Confidence:
    """How sure a caption is, in a word: by its calibrated probability or, where there is none, by its score."""
    if caption.confidence is None:
        return _word(caption.score, _BY_SCORE)
    return _word(caption.confidence, _BY_PROBABILITY)


def _word(value: float, scale: _Scale) -> Confidence:
    return next((word for least, word in scale if value >= least), "a guess")


def headers(caption: SpeechCaption) -> dict[str, str]:
    """What a WAV cannot say about itself."""
    said = {"Im2sp-Score": f"{caption.score:.4f}", "Im2sp-Confidence": in_words(caption)}
    if caption.confidence is not None:
        said |= {"Im2sp-Probability": f"{caption.confidence:.4f}", "Im2sp-Abstained": str(caption.abstained).lower()}
    return said


def wav_beginning() -> bytes:
    """Header of a WAV file whose samples follow bit by bit, 16-bit little-endian."""
    header = bytearray(encode_wav(np.zeros(0, dtype=np.float32)))
    header[4:8] = header[_WAV_HEADER - 4 :] = _ENDLESS
    return bytes(header)


def pcm(waveform: FloatArray, *, big_endian: bool) -> bytes:
    """Waveform float32 [samples] -> 16-bit samples."""
    pulses = to_pulses(waveform)
    return (pulses.byteswap() if big_endian else pulses).tobytes()


async def encoded(
    chunks: AsyncIterator[SpeechChunk], kind: str, describe: Callable[[SpeechCaption], Answer] = answer
) -> AsyncGenerator[bytes, None]:
    """Chunks of speech -> pieces of the body of an answer of type WAV, PCM or LINES, each as soon as it is there.

    `describe`: what the last of the LINES says of the caption.
    """
    if kind == WAV:
        yield wav_beginning()
    async for chunk in chunks:
        if kind == LINES:
            yield _line({"pcm": base64.b64encode(pcm(chunk.waveform, big_endian=False)).decode()})
            if chunk.caption is not None:
                yield _line(describe(chunk.caption).model_dump(exclude_none=True))
        else:
            yield pcm(chunk.waveform, big_endian=kind == PCM)


def _line(values: dict[str, object]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def negotiate(accept: str | None, offers: Sequence[str]) -> str:
    """The offer that the Accept header likes best; of equals, and without a header, the first.

    RFC 9110, section 12.5.1, without parameters other than q. Raises Refusal 406.
    """
    liked = [(_quality(accept or "*/*", offer), -place, offer) for place, offer in enumerate(offers)]
    quality, _, offer = max(liked)
    if not quality:
        raise Refusal(406, f"this is answered as {' or '.join(offers)} only; change the Accept header")
    return offer


def _quality(accept: str, offer: str) -> float:
    """Of the most specific range that covers the offer; 0 where none does."""
    offer, best = offer.lower(), (0, 0.0)
    ranges = {offer: 3, f"{offer.partition('/')[0]}/*": 2, "*/*": 1}
    for part in accept.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        if name not in ranges:
            continue
        best = max(best, (ranges[name], _weight(parameters)))
    return best[1]


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            digits = re.fullmatch(r"q=([01](\.\d{0,3})?)", parameter)
            return min(1.0, float(digits[1])) if digits else 0.0
    return 1.0
