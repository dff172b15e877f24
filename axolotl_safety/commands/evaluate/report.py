"""The figures on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from axolotl_safety.util.terminal import escape, visible

_RUNG = ("set", "axis", "metric", "attack")
_HEADINGS = {"harm": "Harm", "over_refusal": "Over-refusal", "reasoning": "Reasoning"}


def show(results: Mapping[str, Any]) -> None:
    """Print one table per axis, the differences from the base, the tax and the overlap. No prompt, no completion."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140)
    for axis, heading in _HEADINGS.items():
        if any(figure["axis"] == axis for figure in results["figures"]):
            console.print(_table(results, axis, heading))
    if any("attack" in figure for figure in results["figures"]):
        console.print(_attacks(results))
    for line in _lines(results):
        console.print(visible(line), highlight=False, soft_wrap=True, markup=False)


def _table(results: Mapping[str, Any], axis: str, heading: str) -> Any:
    from rich.table import Table

    table = Table(title=f"{heading}: percent with 95 % interval")
    names = ("set", "metric", "model", "value", "minus base, points", "p", "n", "cut off", "open", "judge")
    for name in names:
        table.add_column(name, justify="left" if name in ("set", "metric", "model", "judge") else "right")
    gaps = {(one["set"], one["axis"], one["metric"], one["model"]): one for one in results["comparisons"]}
    for figure in results["figures"]:
        if figure["axis"] != axis or "attack" in figure:
            continue
        gap = gaps.get((figure["set"], axis, figure["metric"], figure["model"]))
        table.add_row(
            escape(figure["set"]),
            figure["metric"],
            escape(figure["model"]),
            _with_interval(figure["value"], figure["interval"]),
            _with_interval(gap["difference"], gap["interval"], signed=True) if gap else "",
            f"{gap['p_value']:.2g}" if gap else "",
            str(figure["n"]) + (f" x {figure['samples']}" if figure["samples"] > 1 else ""),
            _short(figure["truncation_rate"]),
            _short(figure["unclosed_rate"]),
            escape(figure["judge"])
            + (" (heuristic)" if figure["heuristic"] and "heuristic" not in figure["judge"] else ""),
        )
    return table


def _attacks(results: Mapping[str, Any]) -> Any:
    """One row per attack, by strength; a column per model with the rate and what the attack changed in it."""
    from rich.table import Table

    models = [one["name"] for one in results["models"]]
    table = Table(title="Under attack: percent (minus the plain prompts of the same items, in points)")
    for name in ("set", "metric", "attack", "n", *map(escape, models)):
        table.add_column(name, justify="right" if name == "n" else "left")
    changes = {tuple(one[key] for key in (*_RUNG, "model")): one["difference"] for one in results["attacks"]}
    rungs: dict[tuple[str, ...], dict[str, Any]] = {}
    for figure in results["figures"]:
        if figure["axis"] != "reasoning":
            metric = figure["metric"].removesuffix(f", {figure.get('attack')}")
            rung = (figure["set"], figure["axis"], metric, figure.get("attack", ""))
            rungs.setdefault(rung, {})[figure["model"]] = figure
    attacked = {rung[:3] for rung in rungs if rung[3]}
    order = {rung[:3]: place for place, rung in reversed(list(enumerate(rungs)))}
    for rung, figures in sorted(rungs.items(), key=lambda item: order[item[0][:3]]):  # stable: by strength
        if rung[:3] not in attacked:
            continue
        cells = []
        for model in models:
            change = changes.get((*rung, model))
            behind = "" if change is None else f" ({change:+.1f})"
            cells.append(_short(figures[model]["value"]) + behind if model in figures else "")
        count = "/".join(dict.fromkeys(str(one["n"]) for one in figures.values()))
        table.add_row(escape(f"{rung[0]} ({rung[1]})"), rung[2], rung[3] or "plain", count, *cells)
    return table


def _short(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}"


def _with_interval(value: float | None, interval: list[float] | None, signed: bool = False) -> str:
    if value is None or interval is None:
        return "?"
    form = "+.1f" if signed else ".1f"
    return f"{value:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"


def _lines(results: Mapping[str, Any]) -> list[str]:
    drawn = ", ".join(f"{key} {value}" for key, value in results["sampling"].items())
    lines = [f"sampling: {drawn}; seed {results['seed']}"]
    lines += [f"{one['name']}: {one['path']} ({one['loaded']})" for one in results["models"]]
    for one in results["safety_tax"]:
        lines.append(
            f"safety tax of {one['model']} on {one['set']}: {_with_interval(one['points'], one['interval'])} points "
            f"(base minus tuned; {one['test']}, p {one['p_value']:.2g}, n {one['n']})"
        )
    for one in results.get("agreement", []):
        apart = one["only_first"] + one["only_second"]
        beyond = "not defined" if one["kappa"] is None else f"{one['kappa']:.2f}"
        lines.append(
            f"guards {' and '.join(one['guards'])} on {one['model']}: {_short(one['agreement'])} % alike, Cohen's "
            f"kappa {beyond} ({apart} of {one['n']} apart; {one['unjudged']} without both verdicts)"
        )
    return lines + _overlap_lines(results)


def _overlap_lines(results: Mapping[str, Any]) -> list[str]:
    training = results["training_data"]
    lines = []
    for one in results["sets"]:
        if one["overlap"] is not None:
            shared = one["overlap"]
            lines.append(
                f"overlap with {training['rows']} training prompts: {one['set']} ({one['axis']}) "
                f"{shared['exact']} exact, {shared['ngram']} by 13 words, of {one['n']}"
            )
        if one["skipped"]:
            why = ", ".join(f"{reason} {count}" for reason, count in one["skipped"].items())
            lines.append(f"{one['set']} ({one['axis']}): not asked: {why}")
        for attack, reasons in one.get("not_asked", {}).items():
            why = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
            made = one["n"] - sum(reasons.values())
            lines.append(f"{one['set']} ({one['axis']}): {attack} on {made} of {one['n']} prompts; the others: {why}")
    if training["reason"]:
        lines.append(f"overlap with the training prompts is not known: {training['reason']}")
    if training["not_compared"]:
        lines.append(f"overlap: rows of other types were not compared: {', '.join(training['not_compared'])}")
    groups = {tuple(one.get(key) for key in ("set", "axis", "model", "attack")): one for one in results["figures"]}
    failed = sum(one["failed"] for one in groups.values())
    if failed:
        lines.append(f"{failed} completions could not be delivered by the engine and are in no rate")
    return lines
