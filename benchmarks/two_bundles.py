"""How long one waits for two bundles, in one run: a release against the one before, say.

    python benchmarks/two_bundles.py BUNDLE OTHER [PHOTO...] [--rounds 7] [--threads 1]

Warm, from a decoded photo: to the first chunk of a greedy stream, to the whole caption greedily and with the beam of
each bundle. The bundles alternate, so drift of the machine meets both. Prints medians, the tokens and seconds
of a sentence, and how many times as long the second takes (median over pairs). BUNDLE may be "default".
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path

from first_audio import seconds_of, stream_times

from im2sp import Captioner
from im2sp.bundle import find_bundle
from im2sp.image.loading import load_image
from im2sp.speech.audio import SAMPLE_RATE

EXAMPLES = Path(__file__).parents[1] / "examples"
FIRST, GREEDY, BEAM = "first chunk, greedy", "whole caption, greedy", "whole caption, its beam"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs=2)
    parser.add_argument("photos", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.jpg")))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    captioners = [
        Captioner.from_pretrained(str(find_bundle(name)), threads=options.threads) for name in options.bundles
    ]
    photos = [load_image(photo) for photo in options.photos]
    times: dict[str, list[list[float]]] = {name: [[] for _ in captioners] for name in (FIRST, GREEDY, BEAM)}
    for number in range(options.rounds + 1):
        for photo in photos:
            for place, captioner in enumerate(captioners):
                greedy = replace(captioner.default_options, beam=1)
                taken = (
                    stream_times(captioner, photo, greedy)[0],
                    seconds_of(partial(captioner.caption, photo, greedy)),
                    seconds_of(partial(captioner.caption, photo)),
                )
                if number:  # the first round warms up
                    for kept, seconds in zip(times.values(), taken, strict=True):
                        kept[place].append(seconds)
    for captioner in captioners:
        captions = [captioner.caption(photo) for photo in photos]
        config = captioner.bundle.config
        tokens = statistics.mean(len(captioner.decode(captioner.encode(photo)).tokens) for photo in photos)
        seconds = statistics.mean(len(caption.waveform) / SAMPLE_RATE for caption in captions)
        print(f"{config.name} {config.version}: {tokens:.1f} tokens, {seconds:.1f} s of speech a sentence")
    print(f"{len(photos)} photos, {options.rounds} rounds, {options.threads} thread(s)")
    for name, (one, other) in times.items():
        ratio = statistics.median(second / first for first, second in zip(one, other, strict=True))
        medians = " and ".join(f"{statistics.median(each) * 1e3:.0f} ms" for each in (one, other))
        print(f"  {name:24} {medians}: the second takes {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
