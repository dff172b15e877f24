"""The methods at work: `auto` settled, every entry's rows answered, what failed handed on, outcomes in source order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from axolotl_safety.config import AUTO, SafetyConfig
from axolotl_safety.config.prompts import REWRITE_PROMPTS, STEERING_PROMPTS
from axolotl_safety.data.entries import Entry
from axolotl_safety.data.types import Outcome, Task

from . import dgr, thinksafe, vanilla
from .auto_prompt import best_prompt
from .candidates import Workshop


def generating(safety: SafetyConfig, methods: Iterable[str]) -> list[str]:
    """The methods that ask the engine; ThinkSafe is one of them when DGR hands its failures on."""
    found = set(methods) - {"vanilla"}
    if "dgr" in found and safety.dgr.on_failure == "steer":
        found.add("thinksafe")
    return sorted(found)


def may_answer(safety: SafetyConfig, method: str, own: str) -> bool:
    """Whether a method may be asked about rows whose own method is ``own``."""
    return method == own or (method == "thinksafe" and own == "dgr" and safety.dgr.on_failure == "steer")


def run(
    shops: Mapping[str, Workshop], safety: SafetyConfig, entries: Sequence[Entry], sequence_len: int
) -> tuple[dict[int, list[Outcome]], dict[str, Any]]:
    """Answer every row. All entries of one method share the engine's queue.

    Returns:
        Outcomes by dataset index, in source order; and what `auto` found, by method.
    """
    tasks: dict[str, list[Task]] = defaultdict(list)
    for entry in entries:
        tasks[entry.method].extend(entry.tasks)
    safety, probed = _settle(shops, safety, tasks)
    outcomes = vanilla.run(sequence_len, tasks["vanilla"])
    if tasks["dgr"]:
        rewritten = dgr.run(shops["dgr"], safety.dgr, tasks["dgr"])
        if safety.dgr.on_failure == "steer":
            rewritten = dgr.steer(shops["thinksafe"], safety.thinksafe, tasks["dgr"], rewritten)
        outcomes += rewritten
    if tasks["thinksafe"]:
        outcomes += thinksafe.run(shops["thinksafe"], safety.thinksafe, tasks["thinksafe"])
    return _by_entry(entries, outcomes), probed


def _settle(
    shops: Mapping[str, Workshop], safety: SafetyConfig, tasks: Mapping[str, Sequence[Task]]
) -> tuple[SafetyConfig, dict[str, Any]]:
    """Put a prompt's name in the place of each `auto`; without a row to try it on, the default's."""
    probed: dict[str, Any] = {}
    blocks = {}
    if "dgr" in shops and safety.dgr.prompt == AUTO:
        shop = shops["dgr"]
        chosen, probed["dgr"] = best_prompt(
            shop,
            tasks.get("dgr", ()),
            REWRITE_PROMPTS,
            lambda prompt, task: dgr.propose(shop, prompt, task),
            safety.dgr.probe_rows,
        )
        blocks["dgr"] = safety.dgr.model_copy(update={"prompt": chosen})
    ladder = safety.thinksafe.ladder
    if "thinksafe" in shops and AUTO in ladder:
        asked = (task for method in ("thinksafe", "dgr") for task in tasks.get(method, ()))
        harmful = [replace(task, expect="refuse") for task in asked if task.label == "harmful"]
        named = {name: prompt for name, prompt in STEERING_PROMPTS.items() if name not in ("none", *ladder)}
        chosen, probed["thinksafe"] = best_prompt(
            shops["thinksafe"], harmful, named, thinksafe.propose, safety.thinksafe.probe_rows
        )
        settled = tuple(chosen if rung == AUTO else rung for rung in ladder)
        blocks["thinksafe"] = safety.thinksafe.model_copy(update={"ladder": settled})
    return safety.model_copy(update=blocks), probed


def _by_entry(entries: Sequence[Entry], outcomes: Sequence[Outcome]) -> dict[int, list[Outcome]]:
    """Outcomes and unusable rows of each entry, in the order of its source."""
    grouped: dict[int, list[Outcome]] = {entry.index: [] for entry in entries}
    for outcome in outcomes:
        grouped[outcome.entry].append(outcome)
    for entry in entries:
        grouped[entry.index] += [
            Outcome(
                row.row_id,
                entry.index,
                entry.source.name,
                row.prompt,
                "",
                "rejected",
                row.reason,
                categories=row.categories,
            )
            for row in entry.bad
        ]
        grouped[entry.index].sort(key=lambda outcome, order=entry.order: order[outcome.row_id])
    return grouped
