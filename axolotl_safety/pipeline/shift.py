"""The shift meter: how far a response is from what the frozen target would say itself, in nats per token.

Mean negative log-probability of the response's tokens at the raw prompt. ThinkSafe's Figure 8 (arXiv 2601.23143) prints
its exponential; DGR's thesis (arXiv 2602.02136) is that lost reasoning follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from axolotl_safety.data.types import Outcome

QUANTILES = (5, 25, 50, 75, 95)
_LOGGED_GROUPS = 6


def describe(values: Iterable[float | None]) -> dict[str, float | int | None]:
    """Count, mean, sample standard deviation and quantiles of what was measured; None where too little was.

    Quantiles are linear between order statistics.
    """
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return {"n": 0, "mean": None, "sd": None, **{f"p{q}": None for q in QUANTILES}}
    found: dict[str, float | int | None] = {"n": len(known), "mean": float(known.mean())}
    found["sd"] = float(known.std(ddof=1)) if len(known) > 1 else None
    return found | {f"p{q}": float(value) for q, value in zip(QUANTILES, np.percentile(known, QUANTILES), strict=True)}


def refine_round(stage: str) -> str:
    """``0`` for a first rewrite, ``1`` and up for a refine round; empty for a response that is no rewrite."""
    if stage.startswith("refine"):
        return str(int(stage.removeprefix("refine")) + 1)
    return "0" if stage == "transform" else ""


# What responses are grouped by; an empty name is left out.
_GROUPS: dict[str, Callable[[Outcome], str]] = {
    "label": lambda row: row.label,
    "method": lambda row: "original" if row.stage == "original" else row.proposal.partition("/")[0],
    "rung": lambda row: "original" if row.stage == "original" else row.proposal,
    "refine_round": lambda row: refine_round(row.stage),
}


def shift_of(trained: Sequence[Outcome]) -> dict[str, Any]:
    """Shift of the rows that are trained on, before and after.

    Returns:
        ``all`` and, by name of the group, ``label``, ``method``, ``rung`` and ``refine_round``: each with ``reference``
        and ``accepted`` (see `describe`) and ``fall``, the same of reference minus accepted in rows that have both.
    """
    found: dict[str, Any] = {"all": _measure(trained)}
    for kind, name_of in _GROUPS.items():
        names = [name_of(row) for row in trained]
        found[kind] = {
            name: _measure([row for row, own in zip(trained, names, strict=True) if own == name])
            for name in sorted({*names} - {""})
        }
    return found


def _measure(rows: Sequence[Outcome]) -> dict[str, Any]:
    falls = [
        None if row.nll_reference is None or row.nll_accepted is None else row.nll_reference - row.nll_accepted
        for row in rows
    ]
    return {
        "reference": describe(row.nll_reference for row in rows),
        "accepted": describe(row.nll_accepted for row in rows),
        "fall": describe(falls),
    }


def shift_lines(shift: dict[str, Any]) -> list[str]:
    """For the log: one line per group, where there is more than one of its kind and not too many."""
    lines = []
    for kind in _GROUPS:
        groups = shift[kind]
        if 1 < len(groups) <= _LOGGED_GROUPS:
            lines += [f"    {kind.replace('_', ' ')} {name:<24}{_line(measured)}" for name, measured in groups.items()]
    return lines


def _line(measured: dict[str, Any]) -> str:
    parts = []
    for side, word in (("reference", "before"), ("accepted", "after")):
        found = measured[side]
        if found["n"]:
            parts.append(f"{found['mean']:.3f} [{found['p5']:.3f}, {found['p95']:.3f}] {word}")
    return ", ".join(parts) + f" (n {measured['accepted']['n']})" if parts else "not measured"
