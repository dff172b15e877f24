"""Numbers into shapes: bars, histograms and ranges, as plain values that the template draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_BINS = 40
_TOP_PERCENTILE = 99.0  # a few outliers would leave the rest of a histogram in its first bin


@dataclass(frozen=True)
class Bar:
    """A line of a funnel. ``share`` and ``width`` are of the funnel's widest line, 0 to 100."""

    name: str
    count: int
    width: float
    kind: str
    hint: str = ""
    depth: int = 0


@dataclass(frozen=True)
class Series:
    """One distribution of a histogram: bar heights 0 to 100, and the mean's place 0 to 100."""

    name: str
    kind: str
    heights: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float
    mean_at: float
    n: int


@dataclass(frozen=True)
class Histogram:
    """Distributions over common bins.

    Attributes:
        edges: of the bins; the last bin holds everything above it too, if ``clipped``.
        ticks: values to write below, evenly spaced.
        top: share of the tallest bar, 0 to 1.
        clipped: how many values lie beyond the last edge.
    """

    series: tuple[Series, ...]
    edges: tuple[float, ...]
    ticks: tuple[float, ...]
    top: float
    clipped: int


def row_funnel(manifest: Mapping[str, Any]) -> list[Bar]:
    """From the source's rows to the trained ones, every reason in between."""
    funnel = manifest["funnel"]
    widest = max(funnel["source"], funnel["taken"], 1)

    def bar(name: str, count: int, kind: str, hint: str = "", depth: int = 0) -> Bar:
        return Bar(name, count, 100 * count / widest, kind, hint, depth)

    bars = [bar("in the source", funnel["source"], "plain")]
    if funnel["taken"] != funnel["source"]:
        bars.append(bar("taken", funnel["taken"], "plain", "what max_rows, only and the split leave"))
    bars.append(bar("rejected", funnel["rejected"], "rejected"))
    bars += [bar(name, count, "rejected", explain(name), 1) for name, count in _by_count(manifest["reasons"])]
    if funnel["fallback"]:
        bars.append(bar("fallback", funnel["fallback"], "fallback", "the original stands in for a failed rewrite"))
        bars += [
            bar(name, count, "fallback", explain(name), 1) for name, count in _by_count(manifest["fallback_reasons"])
        ]
    bars.append(bar("accepted", funnel["accepted"], "accepted"))
    bars.append(bar("trained on", funnel["trained"], "accepted", "accepted and fallback" if funnel["fallback"] else ""))
    return bars


def completion_funnel(manifest: Mapping[str, Any]) -> list[Bar]:
    """From the completions that were asked for to the accepted ones; empty if none was."""
    funnel, reasons = manifest["funnel"], dict(manifest["candidate_reasons"])
    if not funnel["asked"]:
        return []
    accepted = reasons.pop("accepted", 0)
    widest = funnel["asked"]
    lost = [Bar(name, count, 100 * count / widest, "rejected", explain(name), 1) for name, count in _by_count(reasons)]
    rejected = sum(reasons.values())
    return [
        Bar("asked for", widest, 100.0, "plain"),
        Bar("rejected", rejected, 100 * rejected / widest, "rejected"),
        *lost,
        Bar("accepted", accepted, 100 * accepted / widest, "accepted", "passed every check and every guard"),
    ]


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def histogram(named: Mapping[str, tuple[str, Iterable[float | None]]]) -> Histogram | None:
    """Distributions over common bins, up to the 99th percentile of all values (kind and values by name)."""
    known = {
        name: (kind, np.array([v for v in values if v is not None], float)) for name, (kind, values) in named.items()
    }
    known = {name: pair for name, pair in known.items() if len(pair[1])}
    if not known:
        return None
    everything = np.concatenate([values for _, values in known.values()])
    top = _round_up(max(float(np.percentile(everything, _TOP_PERCENTILE)), float(everything.min()), 1e-9))
    edges = np.linspace(0, top, _BINS + 1)
    counted = {}
    for name, (_, values) in known.items():
        counted[name] = np.histogram(np.clip(values, 0, top), bins=edges)[0]
    tallest = max(float(counts.max()) / len(known[name][1]) for name, counts in counted.items())
    series = tuple(
        Series(
            name,
            kind,
            tuple(round(float(count) / len(values) / tallest * 100, 2) for count in counted[name]),
            tuple(int(count) for count in counted[name]),
            float(values.mean()),
            round(min(100.0, float(values.mean()) / top * 100), 2),
            len(values),
        )
        for name, (kind, values) in known.items()
    )
    ticks = tuple(float(tick) for tick in np.linspace(0, top, 5))
    return Histogram(series, tuple(float(edge) for edge in edges), ticks, tallest, int((everything > top).sum()))


def _round_up(value: float) -> float:
    """The next value with one or two significant digits whose quarters are round numbers too."""
    power = 10.0 ** np.floor(np.log10(value))
    steps = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10)
    return float(next(step * power for step in steps if step * power >= value * (1 - 1e-12)))


@dataclass(frozen=True)
class Range:
    """5th to 95th percentile and mean on a common scale: values, and places 0 to 100."""

    kind: str
    mean: float
    low: float
    high: float
    mean_at: float
    low_at: float
    high_at: float


@dataclass(frozen=True)
class ShiftLine:
    """One group of the shift table."""

    kind: str
    name: str
    n: int
    ranges: tuple[Range, ...]
    fall: float | None
    paired: int


def shift_lines(shift: Mapping[str, Any]) -> list[ShiftLine]:
    """The shift of all rows, then of each label, method, rung and refine round where there are several."""
    groups = [("all", "all", shift["all"])]
    for kind in ("label", "method", "rung", "refine_round"):
        if len(shift[kind]) > 1:
            groups += [(kind.replace("_", " "), name, measured) for name, measured in shift[kind].items()]
    highs = [measured[side]["p95"] for _, _, measured in groups for side in ("reference", "accepted")]
    scale = max([high for high in highs if high is not None] or [1.0]) or 1.0

    def span(side: str, found: Mapping[str, Any]) -> Range:
        values = (found["mean"], found["p5"], found["p95"])
        return Range(side, *values, *(round(min(100.0, 100 * max(0.0, value) / scale), 2) for value in values))

    return [
        ShiftLine(
            kind,
            name,
            measured["accepted"]["n"],
            tuple(span(side, measured[side]) for side in ("reference", "accepted") if measured[side]["n"]),
            measured["fall"]["mean"],
            measured["fall"]["n"],
        )
        for kind, name, measured in groups
    ]


_REASONS = {
    "control_token": "the text spells a control token of the model",
    "development": "held out for safety.stop, which judges training by it",
    "copy": "the rewrite repeats the reference",
    "empty_answer": "nothing after the thought",
    "empty_prompt": "the row has no prompt",
    "empty_thought": "nothing between the think markers",
    "held_out": "its category is held out (hold_out)",
    "invalid_unicode": "the text is not valid Unicode",
    "leak": "the response speaks of the instruction it was shown",
    "loop": "the response repeats itself",
    "malformed_row": "the row is no mapping of columns",
    "no_label": "nothing says whether the prompt is harmful",
    "no_reference": "the row has no response to rewrite",
    "nothing_to_recover": "the model's own response did not go wrong",
    "not_refused": "a harmful prompt was not refused",
    "not_text": "a column that should hold text holds something else",
    "null_text": "a column that should hold text is empty",
    "over_refused": "a harmless prompt was refused",
    "prompt_too_long": "the prompt leaves no room for a response",
    "stray_marker": "a think marker where none belongs",
    "template_refuses": "the chat template cannot render the row",
    "too_long": "prompt and response exceed sequence_len",
    "truncated": "the response hit the length limit",
    "unclosed_think": "the thought never ends",
    "unknown_label": "the label's meaning is not known",
    "unopened_think": "the response does not begin with a thought",
    "unreadable_messages": "the conversation cannot be read",
    "unreadable_refusal": "prompt and refusal cannot be told apart",
    "unsupported_conversation": "the conversation has no user turn before its response",
}
_GUARD = {
    "controversial": "the guard calls it controversial",
    "language": "the heuristic guard cannot tell in this language whether it refuses",
    "threshold": "the guard's score is past the threshold",
    "truncated": "the guard's own answer was cut off",
    "unparsable": "the guard's answer cannot be read",
    "unsafe": "the guard calls it unsafe",
    "unscored": "the guard's answer could not be scored",
}


def explain(reason: str) -> str:
    """One sentence, or nothing for a reason that explains itself."""
    if reason.startswith("engine_"):
        return "the engine gave up on this request"
    if reason.startswith("guard_"):
        return _GUARD.get(reason.removeprefix("guard_"), "the guard could not judge it, and doubt rejects")
    return _REASONS.get(reason, "")
