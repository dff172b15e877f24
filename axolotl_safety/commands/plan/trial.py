"""``--try``: a few rows through the real engine and guards, by the stage's own code and into its own journal."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from axolotl_safety.data.sources import select_rows
from axolotl_safety.data.types import Key, Outcome
from axolotl_safety.engines.base import Completion, Engine, EngineFigures, Request, Result, Sampling, ScoreRequest
from axolotl_safety.engines.choose import backend_named, start_engine
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.methods.base import method_named
from axolotl_safety.pipeline.inputs import StageInputs
from axolotl_safety.pipeline.ranks import exclusive
from axolotl_safety.pipeline.stage import answer, start_inputs
from axolotl_safety.util.files import writing_in
from axolotl_safety.util.interrupt import interruptible
from axolotl_safety.util.loop import run_async

from .figures import Plan
from .plan import make_plan
from .speed import RANGE, Phase, combined, phase_seconds


@dataclass(frozen=True)
class Trial:
    """How a few rows went.

    Attributes:
        outcomes: of the chosen rows.
        made: completions made now; what the journal held was not made again.
        rate: tokens per second that the target wrote, None if nothing was made.
        seconds: the engine's, without loading.
        plan: of what is left, with what is known now.
        seconds_left: for all of it at the measured speed, None if nothing was made.
    """

    outcomes: tuple[Outcome, ...]
    made: int
    rate: float | None
    seconds: float
    plan: Plan
    seconds_left: float | None


def spread(inputs: StageInputs, count: int) -> StageInputs:
    """The same with so many rows in all, taken in turn from every dataset entry and label.

    The rows are those that a smaller ``max_rows`` would take, so that the real run asks for them too.
    """
    groups = []
    for entry in inputs.entries:
        if not method_named(entry.method).generates:
            continue
        for label in sorted({task.label for task in entry.tasks}, reverse=True):
            ids = [task.example.row_id for task in entry.tasks if task.label == label]
            drawn = _in_order_of_draw(ids, count, inputs.safety.seed)
            groups.append([(entry.index, row_id) for row_id in drawn])
    turns = [key for turn in zip_longest(*groups) for key in turn if key is not None]
    chosen: set[Key] = set(turns[:count])

    def fewer(entry: Any) -> Any:
        return replace(entry, tasks=tuple(task for task in entry.tasks if task.key in chosen), bad=())

    entries = (fewer(entry) for entry in inputs.entries)
    return replace(inputs, entries=tuple(entry for entry in entries if entry.tasks))


def _in_order_of_draw(row_ids: list[str], count: int, seed: int) -> list[str]:
    drawn: list[str] = []
    for size in range(1, min(count, len(row_ids)) + 1):
        drawn += sorted(select_rows(row_ids, size, seed) - set(drawn))
    return drawn


def try_rows(
    cfg: Any, inputs: StageInputs, before: Plan, count: int, make_engine: Callable[..., Engine] = start_engine
) -> Trial:
    """Run a few rows; what they make stays in the journal for the real run.

    Args:
        cfg: the final Axolotl config.
        inputs: the whole stage.
        before: its plan, for where it runs.
        count: rows.
        make_engine: how an engine is started; tests script one.

    Raises:
        StageError: the disk does not take what is written.
    """
    few = spread(inputs, count)
    meters: list[Meter] = []

    def start() -> Meter:
        meters.append(Meter(start_inputs(few, make_engine), few.tokens.turn_end_id))
        return meters[0]

    command, work_dir = f"axolotl safety-plan {cfg.axolotl_config_path} --try {count}", inputs.work_dir
    with interruptible(command), exclusive(work_dir), writing_in(work_dir):
        queue = WorkQueue(few.open_journals(), start)
        _, answered = run_async(answer(few, queue))
        after = make_plan(cfg, inputs, inputs.open_journals(read_only=True), before.place)
    measured = meters[0].measured if meters else []
    seconds = meters[0].seconds if meters else 0.0
    return Trial(
        tuple(outcome for rows in answered.outcomes.values() for outcome in rows),
        queue.made["completion"],
        meters[0].rate if meters else None,
        seconds,
        after,
        left(after, measured, seconds) if seconds else None,
    )


def left(plan: Plan, measured: Sequence[Phase], seconds: float) -> float | None:
    """Seconds for the rest at the speed that was measured.

    On a card with figures, the plan's own seconds are corrected by how wrong they were about the measured calls:
    eight rows leave slots empty, and the plan knows what filling them gains. Elsewhere the work is counted in FLOPs (2
    per parameter and token), which takes no gain from larger batches into account.
    """
    if plan.seconds is not None and plan.engine is not None and plan.place.card is not None:
        seats = {seat.name: seat for seat in plan.engine.seats}
        card = combined(plan.place.card, plan.engine.parallel)
        eager = not backend_named(plan.backend).paged
        predicted = 0.0
        for one in measured:
            model, seat = plan.residents[one.model], seats[one.model]
            predicted += phase_seconds(one, model, seat, card, RANGE["middle"], eager)
        return plan.seconds["middle"] * seconds / predicted
    if not set(plan.sizes) >= {one.model for one in measured}:
        return None

    def work(phases: Any) -> float:
        return sum(
            plan.sizes[phase.model].parameters * (phase.prompt_tokens + phase.new_tokens)
            for phase in phases
            if phase.model in plan.sizes
        )

    done = work(measured)
    return work(plan.load.phases) * seconds / done if done else None


class Meter:
    """An engine that notes what its models read and wrote, and how long they were at work; loading is no part of it.

    Args:
        engine: the one that works.
        token_id: what each model is asked to continue by one token first, so that it is loaded.
    """

    def __init__(self, engine: Engine, token_id: int):
        self._engine = engine
        self._token_id = token_id
        self._warm: dict[str, asyncio.Task[Result]] = {}
        self._kinds: dict[tuple[str, bool], _Kind] = defaultdict(_Kind)
        self._all = _Clock()

    @property
    def figures(self) -> EngineFigures:
        """Those of the engine."""
        return self._engine.figures

    def window(self, model: str) -> int:
        """As the engine's."""
        return self._engine.window(model)

    async def answer(self, request: Request | ScoreRequest) -> Result:
        """As the engine does, once the model is loaded."""
        if request.model not in self._warm:
            sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=1)
            first = Request(f"warm-up {request.model}", request.model, (self._token_id,), sampling, 0, ())
            self._warm[request.model] = asyncio.create_task(self._engine.answer(first))
        await asyncio.shield(self._warm[request.model])
        kind = self._kinds[request.model, isinstance(request, Request)]
        with self._all.running(), kind.clock.running():
            result = await self._engine.answer(request)
        limit = request.sampling.max_new_tokens if isinstance(request, Request) else 0
        kind.requests += 1
        kind.read += request.tokens - limit
        kind.written += len(result.token_ids) if isinstance(result, Completion) else 0
        kind.longest = max(kind.longest, limit)
        return result

    async def close(self, at_once: bool = False) -> None:
        """End the engine."""
        await self._engine.close(at_once)

    @property
    def measured(self) -> list[Phase]:
        """What was done, by model and kind."""
        return [
            Phase("measured", model, kind.requests, kind.read, kind.written, kind.longest, guessed=False)
            for (model, _), kind in self._kinds.items()
        ]

    @property
    def seconds(self) -> float:
        """In which any model was at work."""
        return self._all.seconds

    @property
    def rate(self) -> float | None:
        """Tokens per second that the target wrote, None if it wrote none."""
        wrote = self._kinds.get(("target", True))
        return wrote.written / wrote.clock.seconds if wrote and wrote.written else None


class _Clock:
    """Seconds in which at least one of several things was under way."""

    def __init__(self) -> None:
        self.seconds = self._since = 0.0
        self._running = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """One of them."""
        self._since = self._since if self._running else time.monotonic()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self.seconds += 0.0 if self._running else time.monotonic() - self._since


@dataclass
class _Kind:
    """Completions or scores of one model."""

    clock: _Clock = field(default_factory=_Clock)
    requests: int = 0
    read: int = 0
    written: int = 0
    longest: int = 0
