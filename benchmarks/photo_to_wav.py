"""Photo -> wav: im2sp against the cascade (our own text captioner, then Piper), warm, in one run; prints the ratio.

    python benchmarks/photo_to_wav.py [--runs runs/flickr8k] [--rounds 7] [--beam 3] PHOTO...

Needs im2sp[train,recipe] and a finished `pretrain` stage, whose text captioner is exported like the translator: same
backbone, decoder sizes and decoding code, float32 weights on both sides once loaded. Both decode the photo, caption
it, synthesise and write a 16-bit wav; rounds alternate, so drift of the machine meets both. Also measured: a cold
`im2sp caption` of one photo (process start to wav on disk) and its peak resident memory.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from im2sp import Captioner
from im2sp.arrays import FloatArray
from im2sp.decoding.decoder import DecoderStep, Prefix
from im2sp.decoding.options import DecodingOptions
from im2sp.decoding.search import decode
from im2sp.decoding.vocabulary import SpecialTokens
from im2sp.image.loading import ImageSource, load_image, to_pixels
from im2sp.speech.audio import SAMPLE_RATE, write_wav
from im2sp.train.data.speech_shards import as_floats
from im2sp.train.data.text_tokenizer import BOS, EOS, PAD, TextTokenizer
from im2sp.train.data.voice import PiperSpeaker
from im2sp.train.export import decoder_config, export_decoder, export_image_encoder
from im2sp.train.models.git import GitDecoder
from im2sp.train.models.image_backbone import BackboneConfig, ImageBackbone
from im2sp.train.recipe import Recipe

Speak = Callable[[ImageSource], FloatArray]  # photo -> waveform float32 [samples], 16 kHz


class Graph:
    """An exported graph with the interface that the runtime's decoder step expects."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.label = path.name

    def run(self, **inputs: np.ndarray) -> list[np.ndarray]:
        """Named inputs -> outputs in order."""
        return self._session.run(None, inputs)


def cascade(recipe: Recipe, threads: int, beam: int, folder: Path) -> Speak:
    """Text captioner and Piper, exact decoder, as somebody would put them together; graphs go to `folder`."""
    backbone = recipe.section("backbone", BackboneConfig)
    model, tokenizer = GitDecoder.load(recipe.pretrained), TextTokenizer.load(recipe.text_tokenizer)
    export_image_encoder(
        ImageBackbone.pretrained(backbone, recipe.tuned_backbone), backbone.image_size, model, folder, "fp16"
    )
    export_decoder(model, backbone.image_tokens, folder, "fp32")
    encoder, decoder = Graph(folder / "image_encoder.onnx", threads), Graph(folder / "decoder.onnx", threads)
    config = decoder_config(model.config)
    speaker = PiperSpeaker(replace(recipe.voice, fast_decoder=False), threads)
    options = DecodingOptions(beam=beam, max_tokens=24)
    side, mean, std = backbone.image_size, (backbone.mean,) * 3, (backbone.std,) * 3

    def speak(photo: ImageSource) -> FloatArray:
        keys, values = encoder.run(pixels=to_pixels(load_image(photo), side, side, mean, std)[None])
        step = DecoderStep(decoder, config, Prefix(keys, values))  # type: ignore[arg-type]
        tokens = decode(step, SpecialTokens(PAD, BOS, EOS), options, config.max_tokens).tokens
        wave, _, _ = speaker.speak(tokenizer.decode(tokens) + ".")
        return as_floats(wave)

    return speak


def direct(threads: int, beam: int, model: str) -> Speak:
    """im2sp."""
    captioner = Captioner.from_pretrained(model, threads=threads)
    options = replace(captioner.default_options, beam=beam)
    return lambda photo: captioner.caption(photo, options).waveform


def summary(seconds: Sequence[float]) -> str:
    """Median and range in milliseconds."""
    low, middle, high = (1000 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"median {middle:.0f} ms ({low:.0f}-{high:.0f})"


# Runs a command in a small process of its own: memory measured from here would be that of this process, torch and all.
WATCH = """
import resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def cold(photo: Path, folder: Path, model: str) -> tuple[float, float]:
    """(seconds from process start to wav on disk, peak resident megabytes) of one `im2sp caption`."""
    command = [sys.executable, "-m", "im2sp", "caption", str(photo), "-o", str(folder), "--model", model]
    watched = subprocess.run([sys.executable, "-c", WATCH, *command], check=True, capture_output=True, text=True)
    seconds, memory = watched.stdout.split()
    return float(seconds), float(memory)


def parser_of(description: str | None, beam: int) -> argparse.ArgumentParser:
    """Options of a comparison with the cascade."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path, default=sorted(Path("examples").glob("*.jpg")))
    parser.add_argument("--recipe", type=Path, default=Path("recipes/flickr8k/recipe.toml"))
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--beam", type=int, default=beam)
    parser.add_argument("--rounds", type=int, default=7)
    return parser


def main() -> None:
    """Measure and print."""
    options = parser_of(__doc__, beam=3).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starts = [cold(options.photos[0], folder / f"cold-{i}", options.model) for i in range(3)]
        recipe = Recipe.read(options.recipe, runs=options.runs)
        sides = {
            "im2sp": direct(options.threads, options.beam, options.model),
            "cascade": cascade(recipe, options.threads, options.beam, folder),
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        ratios, seconds = [], dict.fromkeys(sides, 0.0)
        for number in range(options.rounds + 1):
            for photo in options.photos:
                for side, speak in sides.items():
                    started = time.perf_counter()
                    waveform = speak(photo)
                    write_wav(folder / f"{side}.wav", waveform)
                    if number:  # the first round warms up
                        times[side].append(time.perf_counter() - started)
                        seconds[side] += len(waveform) / SAMPLE_RATE
                if number:
                    ratios.append(times["cascade"][-1] / times["im2sp"][-1])
    print(f"{len(options.photos)} photos, {options.rounds} rounds, {options.threads} thread(s), beam {options.beam}")
    for side, values in times.items():
        print(f"{side:8} photo to wav, warm: {summary(values)}, speech {seconds[side] / len(values):.1f} s")
    print(f"ratio cascade / im2sp, median of pairs: {statistics.median(ratios):.2f}")
    print(f"im2sp cold, process start to wav: median {statistics.median(s for s, _ in starts):.2f} s")
    print(f"im2sp cold, peak resident memory: {max(memory for _, memory in starts):.0f} MB")


if __name__ == "__main__":
    main()
