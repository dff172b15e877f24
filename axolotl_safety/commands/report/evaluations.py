"""The figures of an evaluation, for the three-axis table: read with care, since another command wrote them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_safety.config.work_dir import EVALUATIONS, LATEST_EVALUATION, read_latest

LOG = logging.getLogger(__name__)
_AXES = ("harm", "over_refusal", "reasoning")
_PLACE = ("axis", "set", "metric", "model")
_RUNG = (*_PLACE, "attack")


@dataclass(frozen=True)
class Evaluation:
    """The figures, and a line for each safety tax.

    A figure has ``axis, set, metric, model, rate, low, high, n, truncated, judge`` and ``gap`` (model minus base):
    rates and their bounds in percent, the gap as text in points; None where it is not known.

    Attributes:
        ladders: one per axis, set and metric that was attacked: ``axis, set, metric, rungs``; a rung has ``attack``
            (``plain`` first) and ``cells``, figures whose ``gap`` is what the attack changed in the model.
    """

    scores: list[dict[str, Any]]
    taxes: list[str]
    ladders: list[dict[str, Any]]


def read_evaluation(work_dir: Path, run: str | None = None) -> Evaluation | None:
    """The last evaluation in a work folder, of one run if that is given.

    None if there is none, or none that can be read (the log says why).
    """
    try:
        latest = read_latest(work_dir, LATEST_EVALUATION, run)["hash"]
        results = work_dir / EVALUATIONS / str(latest) / "results.json"
        said = json.loads(results.read_text(encoding="utf-8"))
        gaps = {_place(one): _gap(one, "difference") for one in said.get("comparisons", ())}
        plain = [one for one in said["figures"] if not one.get("attack")]
        scores = [score for one in plain if (score := _score(one, gaps)) is not None]
        ladders = _ladders(said["figures"], said.get("attacks", ()))
        taxes = [f"{one['model']} on {one['set']}: {_gap(one, 'points')}" for one in said.get("safety_tax", ())]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        LOG.warning("%s is left out of the report: %s: %s", work_dir / EVALUATIONS, type(error).__name__, error)
        return None
    order = {axis: place for place, axis in enumerate(_AXES)}
    scores.sort(key=lambda score: order.get(score["axis"], len(order)))  # stable: the evaluation's order within an axis
    return Evaluation(scores, taxes, ladders)


def _place(one: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(one[name] for name in _PLACE)


def _number(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None


def _bounds(one: Mapping[str, Any]) -> tuple[float | None, float | None]:
    interval = one.get("interval")
    low, high = interval if isinstance(interval, (list, tuple)) and len(interval) == 2 else (None, None)
    return _number(low), _number(high)


def _gap(one: Mapping[str, Any], name: str) -> str:
    value, (low, high) = _number(one[name]), _bounds(one)
    if value is None:
        return ""
    between = "" if low is None or high is None else f" [{low:+.1f}, {high:+.1f}]"
    return f"{value:+.1f}{between}"


def _score(one: Mapping[str, Any], gaps: Mapping[tuple[Any, ...], str]) -> dict[str, Any] | None:
    rate, count, (low, high) = _number(one["value"]), _number(one.get("n")), _bounds(one)
    if rate is None:
        return None
    judge = str(one.get("judge") or "")
    if one.get("heuristic") and "heuristic" not in judge:
        judge += " (heuristic)"
    about = {"judge": judge, "truncated": _number(one.get("truncation_rate")), "gap": gaps.get(_place(one), "")}
    figures = {"rate": rate, "low": low, "high": high, "n": None if count is None else int(count)}
    return {name: str(one[name]) for name in _PLACE} | figures | about


def _ladders(figures: Sequence[Mapping[str, Any]], attacks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The attacked figures by strength, each ladder beginning with the plain one."""
    changes = {tuple(one[name] for name in _RUNG): _gap(one, "difference") for one in attacks}
    found: dict[tuple[str, str, str], dict[str, list[dict[str, Any]]]] = {}
    for one in figures:
        attack = str(one.get("attack") or "")
        metric = str(one["metric"]).removesuffix(f", {attack}")
        score = _score({**one, "metric": metric}, {})
        rung = found.setdefault((one["axis"], one["set"], metric), {}).setdefault(attack or "plain", [])
        if score is not None:
            rung.append(score | {"gap": changes.get((one["axis"], one["set"], metric, one["model"], attack), "")})
    return [
        {"axis": axis, "set": name, "metric": metric}
        | {"rungs": [{"attack": attack, "cells": cells} for attack, cells in rungs.items()]}
        for (axis, name, metric), rungs in found.items()
        if len(rungs) > 1
    ]
