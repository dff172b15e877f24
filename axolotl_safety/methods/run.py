"""Every row of every entry answered: `auto` settled first, then one coroutine per row, a bounded number at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from axolotl_safety.config import SafetyConfig
from axolotl_safety.data.entries import Entry
from axolotl_safety.data.types import Outcome, Task
from axolotl_safety.engines.progress import Progress
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.util.errors import StageError
from axolotl_safety.util.terminal import PlainError

from .auto_prompt import best_prompt
from .base import Method, MethodContext, may_answer, method_named

# Rows under way: several engines' worth of requests, and flat memory whatever the dataset's size.
ROWS_AT_ONCE = 4096
Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Answered:
    """What became of all rows.

    Attributes:
        outcomes: by dataset index, in source order.
        auto: what `auto` found, by method.
    """

    outcomes: dict[int, list[Outcome]]
    auto: dict[str, Any]


async def answer_rows(
    contexts: Mapping[str, MethodContext], safety: SafetyConfig, entries: Sequence[Entry], queue: WorkQueue
) -> Answered:
    """Answer every row, each by its own method; no row waits for another.

    Args:
        contexts: by the name of every method that an entry has or hands rows to.
        safety: the section.
        entries: with the rows.
        queue: that of the contexts.

    Raises:
        StageError: no row of a method could be asked.
    """
    contexts, found = await _settled(contexts, safety, entries)
    methods = {entry.index: method_named(entry.method) for entry in entries}
    rows = [task for entry in entries for task in entry.tasks]
    order = sorted(range(len(rows)), key=lambda place: _first_things_first(methods[rows[place].entry], rows[place]))

    async def answer(turn: int) -> Outcome:
        task = rows[order[turn]]
        method = methods[task.entry]
        outcome = await method.answer(task, replace(contexts[method.name], turn=turn))
        progress.done(outcome.status != "rejected")
        return outcome

    with Progress("rows", len(rows), queue) as progress:
        outcomes = await bounded(range(len(rows)), answer)
    for method in set(methods.values()):
        _check_asked(method, contexts[method.name], [one for one in outcomes if methods[one.entry] is method])
    return Answered(_by_entry(entries, outcomes), found)


async def bounded(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Found]], at_once: int = ROWS_AT_ONCE
) -> list[Found]:
    """The results of some work on every item, in their order; so many items are under way at once.

    Raises:
        Exception: the first that some work raised. If it is one of ours (a server does not answer any more), the
            others come to the end of what they are asking, so that it is kept; else they are cancelled.
    """
    places = list(items)
    results: list[Any] = [None] * len(places)
    waiting = deque(enumerate(places))

    async def one_after_the_other() -> None:
        while waiting:
            place, item = waiting.popleft()
            results[place] = await work(item)
            await asyncio.sleep(0)  # what the journal answers at once would leave no moment for an interruption

    tasks = [asyncio.create_task(one_after_the_other()) for _ in range(min(at_once, len(places)))]
    try:
        await asyncio.gather(*tasks)
    except BaseException as error:
        waiting.clear()
        for task in tasks if not isinstance(error, PlainError) else ():
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return results


def _first_things_first(method: Method, task: Task) -> tuple[bool, int]:
    """What may be asked again comes before what is asked once, long before short: a stage ends with its last row."""
    return not (method.generates and task.label == "harmful"), -len(task.prompt_ids) - len(task.reference_ids or ())


async def _settled(
    contexts: Mapping[str, MethodContext], safety: SafetyConfig, entries: Sequence[Entry]
) -> tuple[dict[str, MethodContext], dict[str, Any]]:
    """Contexts with a prompt's name in the place of each `auto`; without a row to try it on, the default's."""
    found: dict[str, Any] = {}
    settled = dict(contexts)
    for name, ctx in contexts.items():
        auto = method_named(name).auto(safety)
        if auto is not None:
            own_first = sorted(entries, key=lambda entry, name=name: entry.method != name)
            tasks = [task for one in own_first if may_answer(safety, name, one.method) for task in one.tasks]
            chosen, found[name] = await best_prompt(ctx, auto, tasks)
            settled[name] = replace(ctx, config=auto.settle(chosen))
    return {name: replace(ctx, others=settled) for name, ctx in settled.items()}, found


def _check_asked(method: Method, ctx: MethodContext, outcomes: Sequence[Outcome]) -> None:
    """A method that cannot show the target a single row is set up wrongly, whatever the rows are."""
    shows_more = method.generates and method.reads_reference
    if shows_more and outcomes and not any(outcome.request_ids for outcome in outcomes):
        raise StageError(
            f"no rewrite prompt of {len(outcomes)} rows could be asked: {outcomes[0].reason}. The model's window is "
            f"{ctx.max_positions} tokens; shorten {method.name}.prompt or the rows, or use a model with a longer one."
        )


def _by_entry(entries: Sequence[Entry], outcomes: Iterable[Outcome]) -> dict[int, list[Outcome]]:
    """Outcomes and unusable rows of each entry, in the order of its source."""
    grouped: dict[int, list[Outcome]] = defaultdict(list)
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
    return dict(grouped)
