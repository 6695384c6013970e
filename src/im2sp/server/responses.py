"""Responses: captions, chunks of speech and refusals in; JSON, WAV and streams out."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

import numpy as np
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from im2sp.arrays import FloatArray
from im2sp.captioner import Captioner, SpeechCaption, SpeechChunk
from im2sp.confidence import share_in_words
from im2sp.explain.attention import AttentionTimeline
from im2sp.speech.audio import SAMPLE_RATE, UNIT_RATE, encode_wav, to_pcm16

WAV, JSON, PCM, LINES = "audio/wav", "application/json", "audio/L16", "application/x-ndjson"
PCM_TYPE = f"{PCM};rate={SAMPLE_RATE};channels=1"  # RFC 2586: big-endian


class Refusal(Exception):
    """A request that is not served: an HTTP status, a sentence, and perhaps when to come back."""

    def __init__(self, status: int, sentence: str, *, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.retry_after = retry_after  # seconds

    def response(self) -> JSONResponse:
        """Return {"error": sentence} with the status and its headers."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return JSONResponse({"error": self.sentence}, self.status, headers)


class Attention(BaseModel):
    """Where the model looked, and when. A map is a list of shares, row by row over the whole photo."""

    rows: int = Field(description="Of each map.")
    columns: int = Field(description="Of each map.")
    boundaries: list[float] = Field(description="Seconds; token t sounds between the values t and t + 1.")
    maps: list[list[float]] = Field(description="One for each token.")
    crop: tuple[float, float] | None = Field(
        description="Width and height of the middle part that the maps cover, in the photo's shorter side; null: all."
    )
    edges: list[float] = Field(description="Seconds; stretch s of the speech, half a second or more, lies between two.")
    stretches: list[list[float]] = Field(description="One map for each stretch: the mean of its tokens.")
    places: list[str] = Field(description='Where the peak of each stretch is, such as "top left".')


def attention_of(caption: SpeechCaption, captioner: Captioner) -> Attention:
    """Return where `captioner` looked while it decoded this caption of its own."""
    timeline, size = AttentionTimeline.of(caption, captioner), captioner.bundle.config.image
    return Attention(
        crop=(size.width / size.shorter_side, size.height / size.shorter_side) if size.shorter_side else None,
        rows=timeline.maps.shape[1],
        columns=timeline.maps.shape[2],
        **timeline.described(),
    )


class CaptionAnswer(BaseModel):
    """A caption as JSON."""

    units: list[int] = Field(description="Speech units, repeats removed.")
    durations: list[int] = Field(description=f"Of each unit, in frames of {1000 // UNIT_RATE} ms.")
    score: float = Field(description="Mean log probability of a token, which says nothing about the truth.")
    probability: float | None = Field(
        default=None, description="That the caption is right. Only where the model is calibrated (docs/confidence.md)."
    )
    confidence: str | None = Field(
        default=None, description='The probability in words: "of captions like this, 72 of 100 were right".'
    )
    hedged: bool = Field(default=False, description='Doubtful: the speech says "perhaps" before the caption.')
    abstained: bool = Field(
        default=False, description="Unlikely to be right: the speech says that it cannot be told what the photo shows."
    )
    speech_seconds: float = Field(description="Length of the speech.")
    seconds: float = Field(description="Time taken to make it.")
    sample_rate: int = Field(default=SAMPLE_RATE, description="Of the speech, in Hz.")
    heard: str | None = Field(
        default=None, description="The words that a recogniser heard, with `words=true`, where the service has one."
    )
    wav: str | None = Field(default=None, description="The speech as a WAV file in base64, with `audio=true`.")
    attention: Attention | None = Field(default=None, description="With `attention=true`: where the model looked.")


class ErrorAnswer(BaseModel):
    """Why there is no speech."""

    error: str = Field(description="One sentence: what was wrong, with what, what to do.")


def caption_answer(
    caption: SpeechCaption, *, audio: bool = False, captioner: Captioner | None = None, heard: str | None = None
) -> CaptionAnswer:
    """Describe a caption; with `audio` including its WAV, with the captioner that made it including its attention."""
    return CaptionAnswer(
        units=caption.units.tolist(),
        durations=caption.durations.tolist(),
        score=caption.score,
        probability=caption.confidence,
        confidence=None if caption.confidence is None else share_in_words(caption.confidence),
        hedged=caption.hedged,
        abstained=caption.abstained,
        speech_seconds=len(caption.waveform) / SAMPLE_RATE,
        seconds=caption.seconds,
        heard=heard,
        wav=base64.b64encode(encode_wav(caption.waveform)).decode() if audio else None,
        attention=attention_of(caption, captioner) if captioner and not caption.abstained else None,
    )


def caption_headers(caption: SpeechCaption) -> dict[str, str]:
    """Return what a WAV file cannot hold."""
    headers = {"Im2sp-Score": f"{caption.score:.4f}"}
    if caption.confidence is not None:
        headers |= {"Im2sp-Probability": f"{caption.confidence:.4f}"}
        headers |= {"Im2sp-Hedged": str(caption.hedged).lower(), "Im2sp-Abstained": str(caption.abstained).lower()}
    return headers


async def encode_stream(
    chunks: AsyncIterator[SpeechChunk],
    kind: str,
    captioner: Captioner | None = None,
    listen: Callable[[FloatArray], Awaitable[str | None]] | None = None,
) -> AsyncGenerator[bytes, None]:
    """Encode chunks of speech as the body of a response of type WAV, PCM or LINES, each as soon as it is there.

    `captioner`: adds its attention to the LINES. `listen`: adds a last line with the words that it heard, if any.
    """
    if kind == WAV:
        header = bytearray(encode_wav(np.zeros(0, dtype=np.float32)))  # 44 bytes
        header[4:8] = header[40:44] = b"\xff" * 4  # the lengths of the file and of its samples are not known
        yield bytes(header)
    async for chunk in chunks:
        if kind == LINES:
            yield _line({"pcm": base64.b64encode(pcm(chunk.waveform, big_endian=False)).decode()})
            if chunk.caption is not None:
                yield _line(caption_answer(chunk.caption, captioner=captioner).model_dump(exclude_none=True))
                heard = await listen(chunk.caption.waveform) if listen else None
                if heard is not None:
                    yield _line({"heard": heard})
        else:
            yield pcm(chunk.waveform, big_endian=kind == PCM)


def pcm(waveform: FloatArray, *, big_endian: bool) -> bytes:
    """waveform float32 [samples] -> 16-bit samples."""
    samples = to_pcm16(waveform)
    return (samples.byteswap() if big_endian else samples).tobytes()


def _line(values: dict[str, object]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def negotiate(accept: str | None, offers: Sequence[str]) -> str:
    """Return the offer that an Accept header prefers; of equals, and without a header, the first.

    RFC 9110, section 12.5.1, without parameters other than q. Raises Refusal 406.
    """
    weights: dict[str, float] = {}
    for part in (accept or "*/*").lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        weight = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        valid = re.fullmatch(r"[01](\.\d{0,3})?", weight)
        weights[name] = min(1.0, float(weight)) if valid else 0.0

    def quality(offer: str) -> float:
        """Weight of the most specific range that covers the offer."""
        ranges = (offer.lower(), f"{offer.lower().partition('/')[0]}/*", "*/*")
        return next((weights[name] for name in ranges if name in weights), 0.0)

    best = max(offers, key=quality)
    if not quality(best):
        raise Refusal(406, f"this is answered as {' or '.join(offers)} only; change the Accept header")
    return best
