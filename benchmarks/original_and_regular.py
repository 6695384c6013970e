"""What is understood of the same sentences: from the original voice, and in regular units through the vocoder.

    python benchmarks/original_and_regular.py --recipe recipes/flickr8k/retaught.toml [--runs RUNS] [--sentences 150]

RUNS is the folder of a run of a recipe with [pronunciations], up to that stage. The sentences are those of the text
captioner about dev photos, which no voice has learned from. Each is spoken by the recipe's voice, and said in regular
units by the voice that learned from it, with predicted durations; the recipe's recogniser hears both. Printed for
each: word error rate with its 95 % interval, sentences with any difference, and with one in a word that matters
(neither article nor preposition nor form of "to be"), and what was misheard most; then the ratio of the two word error
rates. What the original voice loses, no units and no vocoder can win back.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from meant_and_heard import confusions

from im2sp.arrays import IntArray
from im2sp.speech.units import without_repeats
from im2sp.train.data.flickr8k import clean_text
from im2sp.train.data.pronunciations import Pronunciations, phones_of_words
from im2sp.train.data.speech_shards import as_floats
from im2sp.train.data.voice import PiperSpeaker
from im2sp.train.evaluate.recognisers import open_recogniser
from im2sp.train.evaluate.words import word_error_rate
from im2sp.train.models.unit_vocoder import load_vocoder, say
from im2sp.train.recipe import Recipe
from im2sp.train.stages.pronounce import TABLE


def regular_units(text: str, table: Pronunciations, speaker: PiperSpeaker) -> IntArray | None:
    """Units of a sentence without repeats, each word as the table says it; None where it does not know one."""
    frames = table.say(phones_of_words(speaker.phones(clean_text(text))))
    return None if frames is None else without_repeats(frames)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/flickr8k/retaught.toml"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--sentences", type=int, default=150)
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe, arguments.data, arguments.runs)
    teacher = json.loads((recipe.teacher / "dev_captions.json").read_text())
    table, original = Pronunciations.load(recipe.lessons / TABLE), PiperSpeaker(recipe.voice)
    units = {
        image_id: found
        for image_id, text in sorted(teacher.items())
        if (found := regular_units(text, table, original)) is not None
    }
    photos = list(units)[:: max(1, len(units) // arguments.sentences)][: arguments.sentences]
    texts = {image_id: teacher[image_id] for image_id in photos}
    networks = load_vocoder(recipe.voice_of_lessons)
    recogniser = open_recogniser(recipe.recogniser, len(os.sched_getaffinity(0)))
    voices = {
        "original voice": ((name, as_floats(original.speak(clean_text(text))[0])) for name, text in texts.items()),
        "regular units": ((name, say(*networks, units[name])) for name in texts),
    }
    print(f"{len(texts)} sentences\n\n| | word error rate | any difference | one that matters | misheard most |")
    print("|---" * 5 + "|")
    rates = []
    for voice, waves in voices.items():
        with tempfile.TemporaryDirectory() as folder:
            heard = recogniser.transcribe_all(waves, Path(folder) / "heard.jsonl")
        rate = word_error_rate(list(texts.values()), [heard[name] for name in texts])
        counts, different, mattering = confusions(texts, heard)
        rates.append(rate.rate)
        interval = f"{rate.rate:.1f} ({rate.low:.1f}-{rate.high:.1f})"
        most = "; ".join(f'"{one}" as "{other}" {count}' for (one, other), count in counts.most_common(6))
        print(f"| {voice} | {interval} | {different:.1%} | {mattering:.1%} | {most} |", flush=True)
    print(f"\nword error rate, regular units / original voice: {rates[1] / max(rates[0], 1e-9):.2f} times")


if __name__ == "__main__":
    main()
