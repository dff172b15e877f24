"""Means, spreads and intervals over the runs of a method, and the table that shows them."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from axolotl_safety.commands.evaluate.statistics import Estimate

RATES = ("refusal_seen", "refusal_unseen", "over_refusal", "reasoning")
_SETS = {"harmful_seen": RATES[0], "harmful_unseen": RATES[1], "benign": RATES[2], "math": RATES[3]}
MILESTONES = {"equal": "tax_at_equal_refusal", "usable": "tax_at_usable"}  # see figures.Milestones
DRAWS = 2000

Row = dict[str, Any]


def mean_over_seeds(gaps_SI: np.ndarray) -> Estimate:
    """Mean difference and 95 % interval where seeds and items both are samples of what could have been drawn.

    Crossed random effects by the method of moments: the variance of the mean is (MS_seeds + MS_items - MS_rest) /
    (S I), its degrees of freedom are Satterthwaite's, so that five seeds are not taken for an infinity of them.

    Args:
        gaps_SI: one difference per seed and item; with one seed, only the items' spread is known.
    """
    gaps = np.asarray(gaps_SI, dtype=float)
    seeds, items = gaps.shape
    mean = float(gaps.mean())
    seed_means_S, item_means_I = gaps.mean(axis=1), gaps.mean(axis=0)
    parts: list[tuple[float, float]] = []  # mean square with its sign, degrees of freedom
    if seeds > 1:
        parts.append((items * float(seed_means_S.var(ddof=1)), seeds - 1))
    if items > 1:
        parts.append((seeds * float(item_means_I.var(ddof=1)), items - 1))
    if seeds > 1 and items > 1:
        rest = gaps - seed_means_S[:, None] - item_means_I[None, :] + mean
        parts.append((-float((rest**2).sum()) / ((seeds - 1) * (items - 1)), (seeds - 1) * (items - 1)))
    total = max(sum(square for square, _ in parts), *(square for square, _ in parts), 0.0) if parts else 0.0
    name = "t over seeds and items" if seeds > 1 else "t over items, one seed"
    spread = sum(square**2 / freedom for square, freedom in parts)
    if total == 0 or spread == 0:
        return Estimate(mean, mean, mean, name)
    half = float(stdtrit(total**2 / spread, 0.975)) * math.sqrt(total / (seeds * items))
    return Estimate(mean, mean - half, mean + half, name)


def interval(lost_by_seed: Sequence[Sequence[int]]) -> tuple[float, float]:
    """95 % interval of the mean loss in points, seeds and items both being samples of what could have been drawn.

    Args:
        lost_by_seed: per seed and item 1 (lost), 0 or -1 (gained); the item's place means the same in each.
    """
    found = mean_over_seeds(np.array(lost_by_seed))
    return 100 * found.low, 100 * found.high


def _ends(values: list[float]) -> tuple[float, float]:
    values = sorted(values)
    return values[int(0.025 * len(values))], values[max(0, int(0.975 * len(values)) - 1)]


def lost_items(base: Row, tuned: Row) -> list[int]:
    """Per sum: 1 where the base was right and the tuned model is not, -1 the other way round."""
    return [int(before) - int(after) for before, after in zip(base["correct"], tuned["correct"], strict=True)]


def spread(name: str, values: Sequence[float | None]) -> Row:
    """``name`` and ``name_sd``, rounded; None where nothing is known, and no spread of one."""
    known = [value for value in values if value is not None]
    mean = round(statistics.mean(known), 3) if known else None
    return {name: mean, f"{name}_sd": round(statistics.stdev(known), 3) if len(known) > 1 else None}


def loss(name: str, lost: Sequence[Sequence[int]]) -> Row:
    """A loss in points over runs, with standard deviation and interval."""
    row = spread(name, [100 * sum(items) / len(items) for items in lost])
    return row | {f"{name}_95": [round(end, 2) for end in interval(lost)] if lost else None}


def table_row(method: str, results: Sequence[Row]) -> Row:
    """One method over its seeds.

    Args:
        method: its name.
        results: what ``lab_table.one_run`` returns, one per seed: ``base``, ``end``, ``equal``, ``usable`` (None where
            not reached) are figures on the same items.
    """
    ends = [result["end"] for result in results]
    row: Row = {"method": method, "seeds": [result["seed"] for result in results]}
    for rate in (*RATES, "helpful", "reasoning_refused", "reasoning_wrong"):
        row |= spread(rate, [figures[rate] for figures in ends])
    row |= loss("reasoning_loss", [lost_items(result["base"], result["end"]) for result in results])
    for milestone, tax in MILESTONES.items():
        reached = [result for result in results if result[milestone]]
        row |= loss(tax, [lost_items(result["base"], result[milestone]) for result in reached])
        place = {"reached": len(reached), "of": len(results)}
        place |= spread("step", [result[f"{milestone}_step"] for result in reached])
        for rate in (*RATES, "reasoning_refused", "reasoning_wrong"):
            place |= spread(rate, [result[milestone][rate] for result in reached])
        row[f"at_{milestone}"] = place
    row |= spread("shift", [result["shift"] for result in results])
    row["rows"] = results[0]["rows"]
    row |= {"learning_rate": results[0]["learning_rate"], "max_steps": results[0]["max_steps"]}
    row["n"] = {_SETS[name]: count for name, count in ends[0]["n"].items()}
    return row


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0; equal values share the mean of their places."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2 for value in values
    ]


def _slope_and_rho(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Least-squares slope and Spearman's rank correlation; None where either axis has one value only."""
    xs, ys = zip(*points, strict=True)
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    return statistics.linear_regression(xs, ys).slope, statistics.correlation(_ranks(xs), _ranks(ys))


def relation(points_by_seed: Sequence[Sequence[tuple[float, float]]], draws: int = DRAWS) -> Row | None:
    """How the reasoning loss goes with the shift: slope in points per nat, rank correlation, 95 % intervals.

    Whole seeds are drawn again, as the runs of one seed share base, prompts and order. With five seeds such an
    interval is coarse.

    Args:
        points_by_seed: shift and loss of each run, grouped by seed.
        draws: bootstrap samples.
    """
    everything = [point for points in points_by_seed for point in points]
    found = _slope_and_rho(everything) if len(everything) > 2 else None
    if found is None:
        return None
    rng = random.Random(0)
    samples = [
        _slope_and_rho([point for points in rng.choices(points_by_seed, k=len(points_by_seed)) for point in points])
        for _ in range(draws)
    ]
    slopes, rhos = zip(*[sample for sample in samples if sample is not None], strict=True)
    return {
        "points": len(everything),
        "seeds": len(points_by_seed),
        "slope": round(found[0], 2),
        "slope_95": [round(end, 2) for end in _ends(list(slopes))],
        "spearman": round(found[1], 3),
        "spearman_95": [round(end, 3) for end in _ends(list(rhos))],
    }


def shown(row: Row, name: str, digits: int = 1) -> str:
    """``mean ± spread``; empty where nothing is known."""
    if row[name] is None:
        return ""
    deviation = row[f"{name}_sd"]
    return f"{row[name]:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def shown_loss(row: Row, name: str) -> str:
    """``mean ± spread [interval]``."""
    ends = row[f"{name}_95"]
    return shown(row, name) + (f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else "")


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines))


_TITLES = {
    "equal": "First checkpoint at equal refusal (at least 95 % on the development split, seen and unseen)",
    "usable": "First checkpoint at equal refusal that over-refuses at most 2 % (development split)",
}


def markdown(rows: Sequence[Row]) -> str:
    """Three tables: the end of training, the first checkpoint at equal refusal, and the first usable one."""
    heads = ["method", "seeds", "shift", "refusal seen", "unseen", "over-refusal", "reasoning", "failures: refused"]
    ends = []
    for row in rows:
        cells = [row["method"], str(len(row["seeds"])), shown(row, "shift", 2), *(shown(row, rate) for rate in RATES)]
        cells += [shown(row, "reasoning_refused"), shown(row, "reasoning_wrong"), shown_loss(row, "reasoning_loss")]
        ends.append(cells)
    parts = [table([*heads, "wrong", "reasoning lost [95 %]"], ends)]
    parts += [f"{_TITLES[name]}:\n\n{_milestone_table(rows, name)}" for name in MILESTONES]
    return "\n\n".join(parts)


def _milestone_table(rows: Sequence[Row], name: str) -> str:
    heads = [
        "method",
        "reached",
        "step",
        "refusal seen",
        "unseen",
        "over-refusal",
        "reasoning",
        "reasoning lost [95 %]",
    ]
    lines = []
    for row in rows:
        place = row[f"at_{name}"]
        cells = [row["method"], f"{place['reached']} of {place['of']}" if place["reached"] else "not reached"]
        cells += [shown(place, "step", 0), *(shown(place, rate) for rate in RATES)]
        lines.append([*cells, shown_loss(row, MILESTONES[name])])
    return table(heads, lines)


def shortfall(figures: Sequence[Row]) -> float:
    """What a setting lacks on the development split, in points: the number that the choice of settings minimises.

    (100 - refusal seen) + (100 - refusal unseen) + over-refusal + reasoning loss, each the mean over seeds.
    """
    total = [
        200 - item["refusal_seen"] - item["refusal_unseen"] + item["over_refusal"] + item["reasoning_loss"]
        for item in figures
    ]
    return math.fsum(total) / len(total)
