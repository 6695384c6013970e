"""A listening test: a folder of wavs -> a page to rate them on, and the answers of listeners -> mean opinion scores.

    python benchmarks/listening_test.py page WAVS -o test.html [--question "How natural is this speech?"]
    python benchmarks/listening_test.py score ANSWERS.json...

The page needs no server and has the clips in it: listeners open it, rate each clip from 1 to 5 in an order of their
own, and send back the file that it saves. A system is a folder of WAVS (WAVS/ours/1.wav, WAVS/theirs/1.wav); without
folders there is one. Printed are the mean opinion score of each system and its 95 % interval by bootstrap, which draws
listeners and clips again, as both are samples.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path

import numpy as np

from im2sp.errors import reason

MOST_CLIPS, MOST_BYTES = 500, 100 * 2**20
RESAMPLES = 2_000
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Listening test</title><style>body{font:1.1rem sans-serif;max-width:36rem;margin:2rem auto;padding:0 1rem}
fieldset{border:0;padding:0;margin:1rem 0}label{display:block;padding:.4rem}audio{width:100%}</style>
<h1 id="question"></h1><p id="count"></p><audio id="audio" controls></audio>
<form id="form"><fieldset id="scale"></fieldset><button>Next</button></form>
<script type="application/json" id="clips">CLIPS</script><script>
const {question, clips} = JSON.parse(document.getElementById("clips").textContent);
const words = ["1: bad", "2: poor", "3: fair", "4: good", "5: excellent"], answers = {};
for (let i = clips.length - 1; i > 0; i--) { // each listener hears another order
  const j = Math.floor(Math.random() * (i + 1)); [clips[i], clips[j]] = [clips[j], clips[i]];
}
const at = id => document.getElementById(id);
let place = 0;
at("question").textContent = question;
function show() {
  at("count").textContent = `Clip ${place + 1} of ${clips.length}`;
  at("audio").src = `data:audio/wav;base64,${clips[place].wav}`;
  at("scale").innerHTML = words.map((word, i) =>
    `<label><input type="radio" name="score" value="${i + 1}" required> ${word}</label>`).join("");
}
at("form").onsubmit = event => {
  event.preventDefault();
  answers[clips[place].id] = Number(new FormData(at("form")).get("score"));
  if (++place < clips.length) return show();
  const file = new Blob([JSON.stringify({listener: String(Math.random()), answers})]);
  document.body.innerHTML = "<h1>Thank you</h1><p>Please send back <a id=save download=answers.json>answers.json</a>.";
  at("save").href = URL.createObjectURL(file);
};
show();
</script></html>
"""


def write_page(folder: Path, question: str, out: Path) -> int:
    """Write the page for all wavs of a folder; return how many there are."""
    paths = sorted(folder.rglob("*.wav"))
    if not paths:
        sys.exit(f"{folder} holds no wavs: give a folder of clips, or one of a folder for each system")
    if len(paths) > MOST_CLIPS or sum(path.stat().st_size for path in paths) > MOST_BYTES:
        sys.exit(f"{folder} has more than {MOST_CLIPS} clips or {MOST_BYTES >> 20} MB: take fewer")
    clips = [
        {"id": path.relative_to(folder).as_posix(), "wav": base64.b64encode(path.read_bytes()).decode()}
        for path in paths
    ]
    text = json.dumps({"question": question, "clips": clips}).replace("<", "\\u003c")
    out.write_text(PAGE.replace("CLIPS", text), encoding="utf-8")
    return len(paths)


def read_answers(paths: list[Path]) -> dict[str, dict[str, dict[str, int]]]:
    """{system: {clip: {listener: score}}} of the files that listeners sent back."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for path in paths:
        try:
            sent = json.loads(path.read_text(encoding="utf-8"))
            listener, answers = str(sent["listener"]), dict(sent["answers"])
        except OSError as error:
            sys.exit(f"{path} cannot be read: {reason(error)}")
        except (ValueError, KeyError, TypeError):
            sys.exit(f"{path} holds no answers of the page: leave it out")
        for clip, score in answers.items():
            if score not in (1, 2, 3, 4, 5):
                sys.exit(f"{path} gives {clip} the score {score!r}: scores are 1 to 5")
            system, _, name = clip.rpartition("/")
            found.setdefault(system or "all", {}).setdefault(name, {})[listener] = score
    if not found:
        sys.exit("nobody has rated a clip: give the files that listeners sent back")
    return found


def opinion_score(scores: dict[str, dict[str, int]], seed: int = 0) -> tuple[float, float, float]:
    """{clip: {listener: score}} -> mean opinion score and the ends of its 95 % interval."""
    listeners = sorted({listener for given in scores.values() for listener in given})
    table = np.array([[given.get(listener, np.nan) for listener in listeners] for given in scores.values()])
    random, (clips, people) = np.random.default_rng(seed), table.shape
    means = []
    for _ in range(RESAMPLES):
        drawn = table[random.integers(clips, size=clips)][:, random.integers(people, size=people)]
        if not np.isnan(drawn).all():
            means.append(np.nanmean(drawn))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.nanmean(table)), float(low), float(high)


def main() -> None:
    """Write a page, or print scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    page = commands.add_parser("page")
    page.add_argument("folder", type=Path)
    page.add_argument("--question", default="How natural is this speech?")
    page.add_argument("--out", "-o", type=Path, required=True)
    score = commands.add_parser("score")
    score.add_argument("answers", type=Path, nargs="+")
    given = parser.parse_args()
    if given.command == "page":
        print(f"{given.out}: {write_page(given.folder, given.question, given.out)} clips")
        return
    for system, scores in sorted(read_answers(given.answers).items()):
        mean, low, high = opinion_score(scores)
        people = len({listener for clip in scores.values() for listener in clip})
        ratings = sum(map(len, scores.values()))
        print(
            f"{system}: mean opinion score {mean:.2f} ({low:.2f} to {high:.2f}), {len(scores)} clips, {people} "
            f"listener{'s' * (people != 1)}, {ratings} ratings"
        )


if __name__ == "__main__":
    main()
