"""What ``--try`` and ``--measure-shift`` found, on a terminal. Everything a model wrote is shown, never obeyed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..terminal import visible
from .shift import ShiftFigures
from .trial import Trial

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
    rows = [
        {
            key: value
            for key, value in asdict(outcome).items()
            if key in ("row_id", "source", "prompt", "label", "status", "reason", "thinking", "answer", "verdict")
        }
        | {"candidate_reasons": list(outcome.candidate_reasons)}
        for outcome in trial.outcomes
    ]
    return {
        "rows": rows,
        "made": trial.made,
        "tokens_per_second": trial.rate,
        "seconds": trial.seconds,
        "seconds_left": trial.seconds_left,
    }


def show_shift(console: Console, figures: list[ShiftFigures]) -> None:
    """Print NLL per token of the references."""
    table = Table(title="NLL per token of the references at the raw prompt, nats", title_justify="left")
    for column in ("dataset", "label", "rows", "mean", "sd", "5 %", "25 %", "50 %", "75 %", "95 %"):
        table.add_column(column)
    for one in figures:
        values = (one.mean, one.sd, *one.quantiles)
        table.add_row(Text(visible(one.source)), one.label, str(one.rows), *(f"{value:.3f}" for value in values))
    console.print(table)
    console.print("The higher, the further from what the model writes by itself.")


def shift_json(figures: list[ShiftFigures]) -> list[dict[str, Any]]:
    """Plain values."""
    return [asdict(one) for one in figures]


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
