"""Two bundles in one run, such as a release and the one before: how soon they speak and, with captions, how well.

    python benchmarks/two_bundles.py BUNDLE OTHER [--photos FOLDER] [--rounds 7] [--threads 1]
                                     [--captions CAPTIONS] [--split SPLIT] [--limit 300] [--recogniser base] [--out OUT]

Warm, from a decoded photo: to the first chunk of a greedy stream, to the whole caption greedily and with each bundle's
beam. The bundles alternate, so drift of the machine meets both. With `--captions` (what `im2sp evaluate` takes), both
are evaluated on the same photos, and differences of BLEU-4 and CIDEr are printed with 95 % intervals. BUNDLE may be
"default".
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from im2sp import Captioner
from im2sp.errors import Im2SpError
from im2sp.image.finding import Photos
from im2sp.image.loading import load_image

EXAMPLES = Path(__file__).parents[1] / "examples"
FIRST, GREEDY, BEAM = "first chunk, greedy", "whole caption, greedy", "whole caption, its beam"


def seconds_of(work: Callable[[], object]) -> float:
    """Time a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare_speed(captioners: list[Captioner], photos: list[Path], rounds: int) -> None:
    """Print medians of both bundles and paired ratios."""
    times: dict[str, list[list[float]]] = {name: [[] for _ in captioners] for name in (FIRST, GREEDY, BEAM)}
    images = [load_image(photo) for photo in photos]
    for number in range(rounds + 1):
        for image in images:
            for place, captioner in enumerate(captioners):
                greedy = replace(captioner.default_options, beam=1)
                taken = (
                    seconds_of(partial(next, captioner.stream(image, greedy))),
                    seconds_of(partial(captioner.caption, image, greedy)),
                    seconds_of(partial(captioner.caption, image)),
                )
                if number:  # the first round warms up
                    for kept, seconds in zip(times.values(), taken, strict=True):
                        kept[place].append(seconds)
    print(f"{len(photos)} photos, {rounds} rounds")
    for name, (one, other) in times.items():
        ratio = statistics.median(second / first for first, second in zip(one, other, strict=True))
        medians = " and ".join(f"{statistics.median(each) * 1e3:.0f} ms" for each in (one, other))
        print(f"  {name:24} {medians}: the second takes {ratio:.2f} times as long")


def compare_quality(captioners: list[Captioner], given: argparse.Namespace) -> None:
    """Print scores of both bundles and the differences of the second to the first."""
    from im2sp.train.evaluate.caption_metrics import CaptionStatistics, intervals
    from im2sp.train.evaluate.evaluation import speak_and_transcribe
    from im2sp.train.evaluate.photo_sets import read_photo_set
    from im2sp.train.evaluate.recognisers import open_recogniser

    data = read_photo_set(given.captions, given.photos, given.split).sample(given.limit)
    recogniser = open_recogniser(given.recogniser, given.threads)
    scored = []
    for captioner in captioners:
        found, _ = speak_and_transcribe(captioner, data.photos, given.out, recogniser, captioner.default_options)
        captions = {photo: found[photo].text if photo in found else "" for photo in data.photos}
        scored.append(CaptionStatistics.of(captions, data.references))
    lines = {
        "first": intervals(scored[0]),
        "second": intervals(scored[1]),
        "difference": intervals(scored[1], scored[0]),
    }
    print(f"{len(data.photos)} photos, recogniser {given.recogniser}")
    for name, scores in lines.items():
        (bleu, cider) = (scores["bleu4"], scores["cider"])
        print(
            f"  {name:12} BLEU-4 {bleu.value:6.2f} ({bleu.low:.2f} to {bleu.high:.2f})   CIDEr {cider.value:6.3f} "
            f"({cider.low:.3f} to {cider.high:.3f})"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs=2)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--captions", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--recogniser", default="base")
    parser.add_argument("--out", type=Path, default=Path("two_bundles"))
    given = parser.parse_args()
    try:
        captioners = [Captioner.from_pretrained(name, threads=given.threads) for name in given.bundles]
        compare_speed(captioners, list(Photos([given.photos or EXAMPLES]))[:10], given.rounds)
        if given.captions:
            compare_quality(captioners, given)
    except Im2SpError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
