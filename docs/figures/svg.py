"""What the drawn plots share: the beginning of a drawing, and words in it."""

from __future__ import annotations

from html import escape

from make_figures import STYLE


def beginning(title: str, told: str, width: int, height: int, colours: str) -> list[str]:
    """The lines of an SVG up to its white or dark page; `told` is for those who cannot see it, `colours` is CSS."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-labelledby="title desc" font-family="system-ui, sans-serif" font-size="14">',
        f'  <title id="title">{escape(title)}</title>',
        f'  <desc id="desc">{escape(told)}</desc>',
        f"  <style>{STYLE}{colours}\n  </style>",
        f'  <rect class="page" width="{width}" height="{height}" rx="10"/>',
    ]


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "soft", more: str = "") -> str:
    """Words at a place, anchored at their start, middle or end."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{more}>{escape(words)}</text>'
