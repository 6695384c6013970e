"""How soon one hears something: im2sp against the cascade (our own text captioner, then Piper), in one run.

    python benchmarks/first_audio.py [--runs runs/flickr8k] [--model default] [--rounds 7] [--beam 1] PHOTO...

Warm, from a decoded photo: to the first chunk of `Captioner.stream`, to its last one, to the whole of
`Captioner.caption`, and to the waveform of the cascade, which has nothing to play before. Cold: from process start to
a wav on disk, against what `import torch, transformers` alone takes. What is compared alternates, so drift of the
machine meets all of it. Needs what photo_to_wav.py needs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from photo_to_wav import cascade, cold, parser_of, summary
from PIL import Image

from im2sp import Captioner, DecodingOptions
from im2sp.image.loading import load_image
from im2sp.train.recipe import Recipe

FIRST, LAST, WHOLE, CASCADE = "stream, first chunk", "stream, last chunk", "caption, whole", "cascade, whole"
IM2SP, IMPORTS = "im2sp caption", "import torch, transformers"


def stream_times(captioner: Captioner, photo: Image.Image, decoding: DecodingOptions) -> tuple[float, float]:
    """Seconds to the first and to the last chunk."""
    started = time.perf_counter()
    moments = [time.perf_counter() - started for _ in captioner.stream(photo, decoding)]
    return moments[0], moments[-1]


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(times: dict[str, list[float]], reference: str) -> None:
    """Print medians, and how many times longer the reference takes: the median over pairs."""
    for name, seconds in times.items():
        ratio = statistics.median(slow / fast for slow, fast in zip(times[reference], seconds, strict=True))
        print(f"  {name:28} {summary(seconds)}, {reference} takes {ratio:.2f} times as long")


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__, beam=1)
    parser.add_argument("--starts", type=int, default=3)
    options = parser.parse_args()

    cold_times: dict[str, list[float]] = {IM2SP: [], IMPORTS: []}
    warm: dict[str, list[float]] = {FIRST: [], LAST: [], WHOLE: [], CASCADE: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        imports = [sys.executable, "-c", IMPORTS]
        for number in range(options.starts):
            cold_times[IM2SP].append(cold(options.photos[0], folder / f"cold-{number}", options.model)[0])
            cold_times[IMPORTS].append(seconds_of(lambda: subprocess.run(imports, check=True)))

        captioner = Captioner.from_pretrained(options.model, threads=options.threads)
        decoding = replace(captioner.default_options, beam=options.beam)
        recipe = Recipe.read(options.recipe, runs=options.runs)
        speak = cascade(recipe, options.threads, options.beam, folder)
        photos = [load_image(photo) for photo in options.photos]
        for number in range(options.rounds + 1):
            for photo in photos:
                first, last = stream_times(captioner, photo, decoding)
                whole = seconds_of(partial(captioner.caption, photo, decoding))
                spoken = seconds_of(partial(speak, photo))
                if number:  # the first round warms up
                    for values, seconds in zip(warm.values(), (first, last, whole, spoken), strict=True):
                        values.append(seconds)
    print(f"{len(photos)} photos, {options.rounds} rounds, {options.threads} thread(s), beam {options.beam}")
    print(f"durations look {captioner.bundle.config.vocoder.duration_context} units ahead (None: not known)")
    print("warm, from a decoded photo:")
    compare(warm, CASCADE)
    print(f"cold, from process start ({IM2SP}: to a wav on disk), {options.starts} starts each:")
    compare(cold_times, IMPORTS)


if __name__ == "__main__":
    main()
