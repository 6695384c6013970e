"""Draw docs/images/confidence.svg: reliability, and the share of wrong captions by how many are spoken.

pip install 'im2sp[docs]' && python docs/figures/confidence.py CALIBRATION_JSON [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

OUT = Path(__file__).parents[1] / "images" / "confidence.svg"


def draw(figures: dict[str, dict[str, Any]]) -> Figure:
    """Draw cross-validated figures by search and set of photos; "all" as bars, the sets as lines."""
    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    reliability, coverage = figure.subplots(1, 2)
    for one in figures["all"]["bins"]:
        width = one["high"] - one["low"]
        reliability.bar(one["low"], one["correct"], width, align="edge", color="#8ab4dc", edgecolor="white")
    reliability.plot((0, 1), (0, 1), "--", color="#8a96a3")
    reliability.set(xlabel="confidence", ylabel="share of correct captions", xlim=(0, 1), ylim=(0, 1))
    for name, measured in figures.items():
        if not name.endswith("out_of_distribution"):
            points = measured["risk_coverage"]
            coverage.plot(*zip(*points, strict=True), label=name, linewidth=2.5 if name == "all" else 1)
    coverage.set(xlabel="share of captions spoken, the most confident first", ylabel="share of wrong ones among them")
    coverage.set(xlim=(0, 1), ylim=(0, 1))
    coverage.legend(fontsize=8)
    return figure


def main() -> None:
    """Read the report and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    mpl.rcParams |= {"svg.hashsalt": "im2sp", "svg.fonttype": "none"}
    figure = draw(json.loads(given.calibration.read_text())["figures"])
    figure.savefig(given.out, metadata={"Date": None, "Title": "Reliability and coverage of the confidence"})
    print(given.out)


if __name__ == "__main__":
    main()
