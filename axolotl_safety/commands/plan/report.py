"""A plan in tables for people, in JSON for machines, and in a few lines for a recipe's comment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from axolotl_safety.data.types import UNLABELLED
from axolotl_safety.util.terminal import escape, visible

from .figures import Plan
from .findings import gigabytes
from .guard_test import Reading
from .shift import ShiftFigures
from .trial import Trial

_WORTH_A_LINE = 0.5  # requests expected


def summary(plan: Plan) -> list[str]:
    """The figures that decide, in lines without decoration."""
    lines = []
    if plan.engine is not None:
        target = plan.engine.seats[0]
        guards = sum(seat.weight_bytes for seat in plan.engine.seats[1:])
        turns = " in turn" if plan.engine.in_turn else ""
        lines.append(
            f"engine: weights {gigabytes(target.weight_bytes)}, guards {gigabytes(guards)}{turns}, cache "
            f"{gigabytes(target.cache_bytes)} for {target.tokens // 1000}k tokens, {target.slots} sequences at once"
        )
    if plan.rate is not None and plan.seconds is not None and plan.load.requests:
        slow, fast = round(plan.rate["slow"], -2), round(plan.rate["fast"], -2)
        hours = [plan.seconds[name] / 3600 for name in ("fast", "slow")]
        lines.append(f"generation: {slow:.0f} to {fast:.0f} tokens/s, {hours[0]:.1f} to {hours[1]:.1f} hours")
    if plan.training is not None and plan.place.card is not None:
        need = plan.training
        lines.append(
            f"training: {gigabytes(need.total)} of {gigabytes(plan.place.card.memory_bytes)} (weights "
            f"{gigabytes(need.weights)}, activations {gigabytes(need.activations)}, logits {gigabytes(need.logits)})"
        )
    if plan.judging is not None:
        one = plan.judging
        asked = " and ".join(f"{count} {label}" for label, count in one.prompts.items())
        times = "" if one.times is None else f", so at most {one.times} times"
        lines.append(
            f"stop: judged on {asked} development prompts every {one.every} steps{times}, with at most {one.tokens:,} "
            "tokens each; about 15 % of training time at most"
        )
    return lines


def as_json(plan: Plan, machine: dict[str, Any]) -> dict[str, Any]:
    """Plain values of everything."""
    found = asdict(plan)
    found["workload"] = found.pop("load") | {"requests": plan.load.requests}
    if plan.engine is not None:
        found["engine"]["fits"] = plan.engine.fits
    if plan.training is not None:
        found["training"]["total"] = plan.training.total
    return found | {"hours": plan.hours, "can_run": plan.can_run, "summary": summary(plan)} | machine


def show(console: Console, plan: Plan, machine: dict[str, Any]) -> None:
    """Print a plan. Names from files may hold anything, so nothing of them is taken for markup."""
    _rows(console, plan)
    if plan.load.phases:
        _work(console, plan)
    if plan.engine is not None:
        _memory(console, plan)
    if plan.training is not None:
        _training(console, plan)
    for name, value in machine["versions"].items():
        console.print(escape(f"{name} {value}"), end="  ")
    console.print()
    console.print(f"journal and datasets: about {gigabytes(plan.disk_bytes)}")
    for line in plan.findings.assumptions:
        console.print(escape(f"assumed: {line}"), style="dim")
    for line in summary(plan):
        console.print(escape(line))
    for line in plan.findings.warnings:
        console.print(escape(f"warning: {line}"), style="yellow")
    for line in plan.findings.problems:
        console.print(escape(f"cannot run: {line}"), style="red")
    console.print(escape(verdict(plan)), style="bold")


def verdict(plan: Plan) -> str:
    """One line."""
    place = f"{len(plan.place.cards)} x {plan.place.card.name}" if plan.place.card else "a CPU"
    if not plan.can_run:
        return f"verdict: this cannot run on {place}."
    if not plan.load.requests:
        return f"verdict: the data stage has nothing left to ask; training can start on {place}."
    if plan.hours is None:
        return f"verdict: this can run on {place}; how long it takes is not known (measure it: --try 8)."
    low, high = plan.seconds["fast"] / 3600, plan.seconds["slow"] / 3600
    return f"verdict: this can run on {place}; the data stage takes {low:.1f} to {high:.1f} hours (an estimate)."


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def _rows(console: Console, plan: Plan) -> None:
    table = _table(
        "rows", "dataset", "method", "harmful", "benign", "no label", "unusable", "done", "to ask", "accepted"
    )
    for entry in plan.load.entries:
        table.add_row(
            escape(entry.name),
            entry.method,
            str(entry.rows.get("harmful", 0)),
            str(entry.rows.get("benign", 0)),
            str(entry.rows.get(UNLABELLED, 0)),
            escape(", ".join(f"{reason} {count}" for reason, count in entry.unusable.items()) or "0"),
            str(entry.held),
            f"{entry.expected:.0f}",
            f"{entry.accepted:.0f}",
        )
    console.print(table)


def _work(console: Console, plan: Plan) -> None:
    held = ", ".join(f"{count} {kind}s" for kind, count in plan.load.held.items()) or "nothing"
    table = _table(f"left to do (the journal holds {held})", "what", "model", "requests", "tokens read", "written")
    for phase in plan.load.phases:
        if phase.requests < _WORTH_A_LINE:
            continue
        figures = (f"{value:,.0f}" for value in (phase.requests, phase.prompt_tokens, phase.new_tokens))
        table.add_row(escape(phase.title), phase.model, *figures)
    console.print(table)


def _memory(console: Console, plan: Plan) -> None:
    copies = f", {plan.copies} copies of {plan.engine.parallel} card(s)" if len(plan.place.cards) > 1 else ""
    turns = ", one model at a time" if plan.engine.in_turn else ""
    title = f"{plan.backend} on {plan.place.card.name}: {gigabytes(plan.engine.capacity_bytes)} usable{copies}{turns}"
    table = _table(escape(title), "model", "weights", "overhead", "cache", "tokens", "longest", "at once")
    for seat in plan.engine.seats:
        sizes = (gigabytes(value) for value in (seat.weight_bytes, seat.overhead_bytes, seat.cache_bytes))
        table.add_row(seat.name, *sizes, f"{seat.tokens:,}", f"{seat.longest:,}", str(seat.slots))
    console.print(table)


def _training(console: Console, plan: Plan) -> None:
    need, settings = plan.training, plan.settings
    kind = f"{settings.adapter or 'all parameters'}, {need.trained / 1e6:.1f} million trained"
    title = f"training: {kind}, {settings.tokens} tokens at once, {settings.optimizer}"
    names = ("weights", "gradients", "optimizer", "activations", "logits", "other", "total")
    table = _table(escape(title), "", *names)
    table.add_row("per card", *(gigabytes(getattr(need, name)) for name in names))
    console.print(table)


_SHOWN = 2000  # characters of a thought or an answer


def show_trial(console: Console, trial: Trial) -> None:
    """Print the rows and the measured speed."""
    for number, outcome in enumerate(trial.outcomes, 1):
        how = outcome.status + (f": {outcome.reason}" if outcome.reason else "")
        console.rule(Text(visible(f"{number} of {len(trial.outcomes)}, {outcome.source}, {outcome.label}, {how}")))
        for name, text in (
            ("prompt", outcome.prompt),
            ("thought", outcome.thinking),
            ("answer", outcome.answer),
            ("verdict", outcome.verdict),
            ("reasons", ", ".join(reason or "accepted" for reason in outcome.candidate_reasons)),
        ):
            console.print(Text(f"{name}: ", style="bold") + Text(visible(_cut(text))))
    console.rule()
    accepted = sum(outcome.status == "accepted" for outcome in trial.outcomes)
    console.print(f"{accepted} of {len(trial.outcomes)} rows accepted, {trial.made} completions made now")
    if trial.rate is None:
        console.print("everything stood in the journal, so no speed was measured")
    else:
        console.print(f"{trial.rate:.1f} tokens/s with these few rows at once, {trial.seconds:.1f} s without loading")
    if trial.seconds_left is not None:
        console.print(
            f"left: about {duration(trial.seconds_left)} at this speed, for {trial.plan.load.requests:.0f} requests"
        )


def trial_json(trial: Trial) -> dict[str, Any]:
    """Plain values; the text as the model wrote it, which JSON escapes."""
    keys = ("row_id", "source", "prompt", "label", "status", "reason", "thinking", "answer", "verdict")
    keys += ("candidate_reasons",)
    return {
        "rows": [{key: getattr(outcome, key) for key in keys} for outcome in trial.outcomes],
        "made": trial.made,
        "tokens_per_second": trial.rate,
        "seconds": trial.seconds,
        "seconds_left": trial.seconds_left,
    }


def show_guards(console: Console, readings: Sequence[Reading]) -> None:
    """Print how every guard was read, and what is wrong."""
    if not readings:
        console.print("no guard is a model, so there is nothing to test: the refusal detector is a heuristic")
    for guard in dict.fromkeys(one.guard for one in readings):
        table = Table(title=escape(f"guard {guard}"), title_justify="left")
        for name in ("probe", "should be", "read as", "reply"):
            table.add_column(name, overflow="fold")
        for one in (one for one in readings if one.guard == guard):
            wanted = {True: "safe", False: "not safe", None: "either"}[one.expected]
            said = Text(one.verdict, style="bold red" if one.fault else "green")
            table.add_row(one.probe, wanted, said, Text(visible(one.reply)))
        console.print(table)
    wrong = [one for one in readings if one.fault]
    for one in wrong:
        console.print(Text(visible(f"{one.guard}, {one.probe}: {one.fault}"), style="bold red"))
    if readings:
        console.print(f"{len(readings) - len(wrong)} of {len(readings)} probes are read as they should be")


def show_shift(console: Console, figures: list[ShiftFigures]) -> None:
    """Print NLL per token of the references."""
    columns = ("dataset", "label", "rows", "mean", "sd", "5 %", "25 %", "50 %", "75 %", "95 %")
    table = _table("NLL per token of the references at the raw prompt, nats", *columns)
    for one in figures:
        values = (one.mean, one.sd, *one.quantiles)
        table.add_row(Text(visible(one.source)), one.label, str(one.rows), *(f"{value:.3f}" for value in values))
    console.print(table)
    console.print("The higher, the further from what the model writes by itself.")


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
