"""A plan in tables for people, in JSON for machines, and in a few lines for a recipe's comment."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from ..terminal import escape
from .findings import gigabytes
from .plan import Plan

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
    table = _table("rows", "dataset", "method", "harmful", "benign", "unusable", "done", "to ask", "accepted")
    for entry in plan.load.entries:
        table.add_row(
            escape(entry.name),
            entry.method,
            str(entry.rows.get("harmful", 0)),
            str(entry.rows.get("benign", 0)),
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
