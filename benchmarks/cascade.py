"""Photo to speech: im2sp against cascades of a text captioner and Piper, in one run.

    python benchmarks/cascade.py [--model default] [--beam 1] [--threads 1] [--rounds 7] [PHOTO...]

One cascade has the same image encoder and decoder, which decodes as many tokens as the caption has words, and Piper
speaks a text of as many words. The other is transformers' GIT base with random weights, and Piper. Each side is a
process of its own; sides alternate, so drift of the machine meets all of them. Every caption is spoken, without a
hedge. Printed are medians of the time from a photo on disk to the first sound and to the whole waveform, paired
ratios by the clock and, as machines are shared, by processor time, and peak memory; and the time of `im2sp caption`
from process start to a wav. Needs the extras train and recipe.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from processes import memory, positive, sentences, worker

from im2sp import Captioner, Im2SpError
from im2sp.installing import require_extra
from im2sp.speech.audio import SAMPLE_RATE

EXAMPLES = Path(__file__).parents[1] / "examples"
TEXT = "a brown dog with a red collar runs over the green grass of a wide field next to a small white house"
WORDS_A_SECOND = 2.8  # of the embedded bundle's captions
# photo, words -> seconds by the clock and by the processor, to the first sound and to the last
Times = tuple[float, float, float, float]
Speak = Callable[[Path, int], Times]


@dataclass(frozen=True)
class Settings:
    """What all sides share."""

    model: str
    beam: int
    threads: int


def clocks() -> tuple[float, float]:
    """Return seconds by the clock and those that this process had of the processor."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Return the seconds since `start`, by both clocks."""
    wall, processor = clocks()
    return wall - start[0], processor - start[1]


def im2sp_side(settings: Settings) -> Speak:
    """`Captioner.stream`."""
    captioner = Captioner.from_pretrained(settings.model, threads=settings.threads)
    options = replace(captioner.default_options, beam=settings.beam, always_speak=True)

    def speak(photo: Path, words: int) -> Times:
        started = clocks()
        moments = [since(started) for _ in captioner.stream(photo, options)]
        return *moments[0], *moments[-1]

    return speak


def decoder_side(settings: Settings) -> Speak:
    """The bundle's encoder and decoder for as many tokens as words, then Piper."""
    captioner = Captioner.from_pretrained(settings.model, threads=settings.threads)
    options = replace(captioner.default_options, beam=settings.beam, max_repeats=0)

    def write(photo: Path, words: int) -> None:
        captioner.decode(captioner.encode(photo), replace(options, min_tokens=words, max_tokens=words))

    return with_piper(write, settings)


def git_side(settings: Settings) -> Speak:
    """GIT base as transformers runs it, with random weights, then Piper."""
    with require_extra("train"):
        import torch
        from transformers import GitConfig, GitForCausalLM
    from im2sp.image.loading import load_image, to_pixels

    torch.set_num_threads(settings.threads)
    git = GitForCausalLM(GitConfig()).eval()

    def write(photo: Path, words: int) -> None:
        pixels = torch.from_numpy(to_pixels(load_image(photo), 224, 224, (0.5,) * 3, (0.5,) * 3))[None]
        with torch.inference_mode():
            git.generate(pixel_values=pixels, num_beams=settings.beam, min_new_tokens=words, max_new_tokens=words)

    return with_piper(write, settings)


def with_piper(write: Callable[[Path, int], None], settings: Settings) -> Speak:
    """Return a side that writes a caption, then speaks a text of as many words."""
    with require_extra("recipe"):
        from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig

        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.threads])  # it takes a thread a core
        voice = PiperSynthesizer(SynthesisConfig())

    known = TEXT.split()

    def speak(photo: Path, words: int) -> Times:
        started = clocks()
        write(photo, words)
        voice.synthesize(" ".join(known[k % len(known)] for k in range(words)) + ".")
        taken = since(started)
        return *taken, *taken

    return speak


SIDES = {"im2sp": im2sp_side, "decoder + Piper": decoder_side, "GIT base + Piper": git_side}


def answer(connection: Connection, name: str, settings: Settings) -> None:
    """Answer photos with times, and None with the peak memory. First comes what is wrong, or None."""
    try:
        speak = SIDES[name](settings)
    except Im2SpError as error:
        connection.send(str(error))
        return
    connection.send(None)
    while asked := connection.recv():
        connection.send(speak(*asked))
    connection.send(memory())


def cold_start(photo: Path, settings: Settings) -> float:
    """Return the seconds of one `im2sp caption`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "im2sp", "caption", str(photo), "-o", folder, "--model", settings.model]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def caption_words(settings: Settings, photos: list[Path]) -> dict[Path, int]:
    """Return the words of the caption of each photo, by how long it is. Raises Im2SpError."""
    captioner = Captioner.from_pretrained(settings.model, threads=settings.threads)
    options = replace(captioner.default_options, beam=settings.beam, always_speak=True)
    seconds = {photo: len(captioner.caption(photo, options).waveform) / SAMPLE_RATE for photo in photos}
    return {photo: max(1, round(WORDS_A_SECOND * length)) for photo, length in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.jpg")))
    parser.add_argument("--model", default="default")
    for name, value in (("beam", 1), ("threads", 1), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=positive, default=value)
    given = parser.parse_args()
    settings = Settings(given.model, given.beam, given.threads)
    with sentences():
        words = caption_words(settings, given.photos)
    times: dict[str, list[Times]] = {name: [] for name in SIDES}
    peaks = {}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(worker(answer, name, settings)) for name in SIDES}
        for side in sides.values():
            if problem := side.recv():
                sys.exit(problem)
        for number in range(given.rounds + 1):
            for asked in words.items():
                for name, side in sides.items():
                    side.send(asked)
                    taken = side.recv()
                    if number:  # the first round warms up
                        times[name].append(taken)
        for name, side in sides.items():
            side.send(None)
            peaks[name] = side.recv()
    spans = f"{min(words.values())} to {max(words.values())} words"
    print(f"{len(words)} photos of {spans}, {given.rounds} rounds, {given.threads} thread(s), beam {given.beam}")
    for name, rows in times.items():
        first, _, whole, _ = (1000 * statistics.median(column) for column in zip(*rows, strict=True))
        pairs = list(zip(rows, times["im2sp"], strict=True))
        ratios = [statistics.median(row[k] / ours[k] for row, ours in pairs) for k in range(4)]
        print(
            f"{name:18} first sound {first:.0f} ms ({ratios[0]:.2f} times im2sp, {ratios[1]:.2f} by processor time), "
            f"whole {whole:.0f} ms ({ratios[2]:.2f} times, {ratios[3]:.2f} by processor time), "
            f"peak memory {peaks[name] / 1e6:.0f} MB"
        )
    starts = [cold_start(given.photos[0], settings) for _ in range(3)]
    print(f"im2sp caption, process start to wav: median {statistics.median(starts):.2f} s of {len(starts)}")


if __name__ == "__main__":
    main()
