"""What is understood of regular sentences: a voice before and after it practised them.

    python benchmarks/practised_voice.py --recipe recipes/flickr8k/retaught.toml [--runs RUNS] [--sentences 150]

RUNS is the folder of a run of a recipe with [practise], up to that stage. Sentences of the text captioner about dev
photos, which no voice has learned from, are said in regular units by the vocoder of the stage `vocoder` (with the
durations of the stage `practise`) and by the one that practised, and heard by the recipe's recogniser. Printed for
each: word error rate with its 95 % interval, sentences with any difference, and with one in a word that matters
(neither article nor preposition nor form of "to be"); then the ratio of the two word error rates. Transcripts are kept
beside the regular units, so that a second run is quick.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from meant_and_heard import confusions

from im2sp.lab.data.unit_table import read_unit_tables
from im2sp.lab.evaluation.recognisers import open_recogniser
from im2sp.lab.evaluation.words import word_error_rate
from im2sp.lab.models.unit_vocoder import load_vocoder, say
from im2sp.lab.recipe import Recipe
from im2sp.speech.units import without_repeats


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/flickr8k/retaught.toml"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--sentences", type=int, default=150)
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe, arguments.data, arguments.runs)
    rows = read_unit_tables(recipe.lessons, "dev")
    rows = rows[:: max(1, len(rows) // arguments.sentences)][: arguments.sentences]
    texts = {row.caption_id: row.text for row in rows}
    before, durations = load_vocoder(recipe.vocoder)[0], load_vocoder(recipe.voice_of_lessons)[1]
    after = load_vocoder(recipe.voice_of_lessons)[0]
    recogniser = open_recogniser(recipe.recogniser, len(os.sched_getaffinity(0)))
    print(f"{len(rows)} regular sentences\n\n| voice | word error rate | any difference | one that matters |")
    print("|---" * 4 + "|")
    rates = []
    for name, vocoder in (("before", before), ("after practising", after)):
        waves = ((row.caption_id, say(vocoder, durations, without_repeats(row.speech_units))) for row in rows)
        heard = recogniser.transcribe_all(waves, recipe.lessons / "practised.jsonl")
        rate = word_error_rate(list(texts.values()), [heard[caption] for caption in texts])
        _, different, mattering = confusions(texts, heard)
        rates.append(rate.rate)
        interval = f"{rate.rate:.1f} ({rate.low:.1f}-{rate.high:.1f})"
        print(f"| {name} | {interval} | {different:.1%} | {mattering:.1%} |", flush=True)
    print(f"\nword error rate, after / before: {rates[1] / max(rates[0], 1e-9):.2f} times")


if __name__ == "__main__":
    main()
