"""The table of fair pairs: one row per method and benign share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .fair import Figures, Key, lost_of
from .fair_choice import Choice
from .summary import loss, shown, shown_loss, spread, table

Line = dict[str, Any]


def search_row(choice: Choice) -> Line:
    """What a search found, as a row."""
    key = choice.key
    return {
        "method": key.method,
        "share": key.share,
        "tried": choice.tried,
        "usable_share_of_grid": round(100 * choice.usable / choice.tried, 1),
        "usable_at_end_share_of_grid": round(100 * choice.usable_at_end / choice.tried, 1),
        "chosen": {"shape": key.shape, "learning_rate": key.rate},
    }


def row(method: str, share: int, choice: Choice, found: Mapping[Key, Figures]) -> Line:
    """One method and share over its seeds.

    Rates and ``loss`` are means over the checkpoints read: the first usable one of each run, or its last where none
    was; ``loss_at_usable``, ``second_task_loss`` and ``steps_to_usable`` are over the runs that became usable,
    ``reached`` of them.
    """
    runs = list(found.values())
    reached = [run for run in runs if run["usable"]]
    line = search_row(choice) | {"method": method, "share": share, "seeds": [key.seed for key in found]}
    line |= {"n": len(runs), "reached": len(reached), "rows": runs[0]["rows"]}
    for rate in ("refusal_seen", "refusal_unseen", "over_refusal"):
        line |= spread(rate, [run[rate] for run in runs])
    line |= spread("steps_to_usable", [run["steps"] for run in reached])
    line |= loss("loss", [lost_of(run, "math") for run in runs])
    line |= loss("loss_at_usable", [lost_of(run, "math") for run in reached])
    tasks = [run for run in reached if "lost_turns" in run]
    return line | loss("second_task_loss", [lost_of(run, "turns") for run in tasks])


def search_markdown(rows: Sequence[Line]) -> str:
    """Which share of the settings is any good."""
    heads = ["benign share", "method", "settings", "usable at some checkpoint", "usable at the end", "chosen"]
    lines = [
        [
            f"{line['share']} %",
            line["method"],
            str(line["tried"]),
            f"{line['usable_share_of_grid']:.0f} %",
            f"{line['usable_at_end_share_of_grid']:.0f} %",
            f"{line['chosen']['shape']} at {line['chosen']['learning_rate']:g}",
        ]
        for line in rows
    ]
    return table(heads, lines)


def markdown(rows: Sequence[Line]) -> str:
    """Losses, steps and refusals at the first usable checkpoint."""
    heads = ["benign share", "method", "setting", "settings usable", "runs usable", "steps", "refusal seen", "unseen"]
    heads += ["over-refusal", "reasoning lost, all runs", "usable runs [95 %]", "second task lost [95 %]"]
    lines = []
    for line in rows:
        cells = [f"{line['share']} %", line["method"]]
        cells += [f"{line['chosen']['shape']} at {line['chosen']['learning_rate']:g}"]
        cells += [f"{line['usable_share_of_grid']:.0f} %", f"{line['reached']} of {line['n']}"]
        cells += [shown(line, "steps_to_usable", 0)]
        cells += [shown(line, rate) for rate in ("refusal_seen", "refusal_unseen", "over_refusal")]
        cells.append(shown(line, "loss"))
        lines.append([*cells, shown_loss(line, "loss_at_usable"), shown_loss(line, "second_task_loss")])
    return table(heads, lines)
