"""Draw docs/images/confidence-reliability.svg and confidence-risk.svg from a calibration.json, as plain SVG.

Usage: python docs/figures/make_confidence_figures.py runs/flickr8k/evaluation/calibration.json [--out docs/images]
The same report gives the same files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from make_figures import ROOT
from svg import beginning, text

from im2sp.files import replace_whole

SIDE, LEFT, TOP = 320, 64, 64  # the square that is plotted into, and where it stands
WIDTH, HEIGHT = LEFT + SIDE + 32, TOP + SIDE + 64
COLOURS = """
    .bar { fill: #3b5b7a; fill-opacity: 0.75 }
    .curve { stroke: #3b5b7a; stroke-width: 2.5; fill: none }
    .even { stroke: #8a96a3; stroke-dasharray: 5 4; fill: none }
    @media (prefers-color-scheme: dark) { .bar { fill: #8ab4dc } .curve { stroke: #8ab4dc } }"""


def reliability(report: dict[str, Any]) -> str:
    """For each bin of confidence, how many captions in a hundred were right -> SVG."""
    tested = report["tested"]
    bars = [
        f'<rect class="bar" x="{_x(one["low"]) + 2:.1f}" y="{_y(one["right"]):.1f}" '
        f'width="{SIDE / report["bins"] - 4:.1f}" height="{SIDE * one["right"]:.1f}"><title>'
        f"{one['captions']} captions, {one['confidence']:.0%} sure, {one['right']:.0%} right</title></rect>"
        + text(_x((one["low"] + one["high"]) / 2), _y(one["right"]) - 5, str(one["captions"]), "middle")
        for one in tested["bins"]
    ]
    told = (
        f"Of {tested['captions']} captions that the calibration has not seen, by confidence: how many are right. "
        f"The calibration error is {tested['expected_calibration_error']:.3f}."
    )
    parts = [*bars, f'<path class="even" d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}"/>']
    return _drawing("How often it is right when it is so sure", told, "confidence", "share that is right", parts)


def risk(report: dict[str, Any]) -> str:
    """If only the surest captions are said, how many of them are wrong -> SVG."""
    points = report["tested"]["risk_coverage"]
    everything = points[-1][1]
    told = f"Of all captions {everything:.0%} are wrong; of the surer half {_risk_at(points, 0.5):.0%} are."
    parts = [
        f'<path class="even" d="M{_x(0)} {_y(everything):.1f}H{_x(1)}"/>',
        '<path class="curve" d="M'
        + "L".join(f"{_x(coverage):.1f} {_y(wrong):.1f}" for coverage, wrong in points)
        + '"/>',
    ]
    return _drawing(
        "What is wrong, if only the surest are said", told, "share that is said", "share that is wrong", parts
    )


def _risk_at(points: Sequence[Sequence[float]], coverage: float) -> float:
    return min(points, key=lambda point: abs(point[0] - coverage))[1]


def _x(value: float) -> float:
    return LEFT + SIDE * value


def _y(value: float) -> float:
    return TOP + SIDE * (1 - value)


def _drawing(title: str, told: str, across: str, up: str, parts: Sequence[str]) -> str:
    ticks = [number / 5 for number in range(6)]
    middle = TOP + SIDE / 2
    return "\n".join(
        [
            *beginning(title, told, WIDTH, HEIGHT, COLOURS),
            text(LEFT, 34, title, kind="text"),
            f'<path class="line" d="M{_x(0)} {_y(1)}V{_y(0)}H{_x(1)}"/>',
            *(text(_x(tick), _y(0) + 20, f"{tick:g}", "middle") for tick in ticks),
            *(text(_x(0) - 8, _y(tick) + 4, f"{tick:g}", "end") for tick in ticks),
            text(LEFT + SIDE / 2, _y(0) + 44, across, "middle"),
            text(20, middle, up, "middle", more=f' transform="rotate(-90 20 {middle:g})"'),
            *parts,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Draw both figures of a report."""
    parser = argparse.ArgumentParser(description="Draws the figures of a calibration.")
    parser.add_argument("report", type=Path, help="calibration.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    report = json.loads(options.report.read_text(encoding="utf-8"))
    for name, drawing in (("confidence-reliability", reliability(report)), ("confidence-risk", risk(report))):
        path = options.out / f"{name}.svg"
        with replace_whole(path) as temporary:
            temporary.write_text(drawing, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
