"""A figure of fair pairs: what each method costs and needs, by its benign share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Colours that readers with any of the common colour blindnesses tell apart (Okabe and Ito).
COLOURS = {"vanilla": "#d55e00", "vanilla_long": "#e69f00", "dgr": "#0072b2", "thinksafe": "#009e73"}
NAMES = {"vanilla": "vanilla", "vanilla_long": "vanilla, nearer style", "dgr": "DGR", "thinksafe": "ThinkSafe"}
PANELS = (
    ("reached", "runs that become usable, %"),
    ("over_refusal", "over-refusal, %"),
    ("loss", "reasoning lost, points"),
    ("steps_to_usable", "steps until usable"),
)
WIDTH, HEIGHT = 250, 230
_LEFT, _TOP, _ACROSS, _DOWN = 42, 30, 185, 140

Line = dict[str, Any]


def _value(line: Line, name: str) -> float | None:
    return 100 * line["reached"] / line["n"] if name == "reached" else line[name]


def _ticks(high: float) -> list[float]:
    """Three or more round numbers from 0 to at least ``high``."""
    step = next(step for step in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500) if step * 4 >= high)
    return [at * step for at in range(5) if (at - 1) * step < high]


def picture(rows: Sequence[Line]) -> str:
    """An SVG of four panels side by side; one line per method over the benign share, spread as vertical bars.

    Args:
        rows: what ``fair_table.row`` gives.
    """
    shares = sorted({line["share"] for line in rows})
    methods = [name for name in COLOURS if any(line["method"] == name for line in rows)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(PANELS)}" height="{HEIGHT + 24}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH * len(PANELS)}" height="{HEIGHT + 24}" fill="white"/>',
    ]
    for at, (name, title) in enumerate(PANELS):
        parts.append(f'<g transform="translate({at * WIDTH} 0)">')
        parts += _panel([line for line in rows if line["method"] in methods], shares, methods, name, title)
        parts.append("</g>")
    for at, method in enumerate(methods):
        x, y = 60 + 190 * at, HEIGHT + 10
        parts.append(
            f'<line x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}" stroke="{COLOURS[method]}" stroke-width="2.5"/>'
            f'<text x="{x + 28}" y="{y + 4}">{NAMES[method]}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _panel(rows: Sequence[Line], shares: Sequence[int], methods: Sequence[str], name: str, title: str) -> list[str]:
    known = [value for line in rows if (value := _value(line, name)) is not None]
    ticks = _ticks(max([1.0, *known]))

    def place(share: int, value: float) -> tuple[float, float]:
        across = shares.index(share) / max(1, len(shares) - 1)  # shares stand at equal distances
        return _LEFT + _ACROSS * across, _TOP + _DOWN * (1 - max(0.0, min(value, ticks[-1])) / ticks[-1])

    parts = [f'<text x="{_LEFT + _ACROSS / 2}" y="16" text-anchor="middle" font-weight="bold">{title}</text>']
    for tick in ticks:
        x, y = place(shares[0], tick)
        parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{x + _ACROSS}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for share in shares:
        x, y = place(share, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{share}</text>')
    x, y = _LEFT + _ACROSS / 2, _TOP + _DOWN + 34
    parts.append(f'<text x="{x}" y="{y}" text-anchor="middle">benign rows per 100 harmful</text>')
    for method in methods:
        own = sorted((line for line in rows if line["method"] == method), key=lambda line: line["share"])
        points = [(line, value) for line in own if (value := _value(line, name)) is not None]
        path = " ".join("{:.1f},{:.1f}".format(*place(line["share"], value)) for line, value in points)
        colour = COLOURS[method]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        for line, value in points:
            x, y = place(line["share"], value)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
            if spread := line.get(f"{name}_sd"):
                (_, low), (_, high) = place(line["share"], value - spread), place(line["share"], value + spread)
                parts.append(
                    f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}" opacity="0.5"/>'
                )
    return parts
