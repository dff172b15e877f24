"""``--try``: a few rows through the real engine and guards, by the stage's own code and into its own journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from axolotl_safety.data.sources import select_rows
from axolotl_safety.data.types import Key, Outcome
from axolotl_safety.engines.base import Completion, Engine, EngineFigures, Request, Result, Sampling, ScoreRequest
from axolotl_safety.engines.choose import start_engine
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.pipeline.inputs import Prepared
from axolotl_safety.pipeline.ranks import exclusive
from axolotl_safety.util.files import writing_in
from axolotl_safety.util.interrupt import interruptible

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


def spread(prepared: Prepared, count: int) -> Prepared:
    """The same with so many rows in all, taken in turn from every dataset entry and label.

    The rows are those that a smaller ``max_rows`` would take, so that the real run asks for them too.
    """
    groups = []
    for entry in prepared.entries:
        if entry.method == "vanilla":
            continue
        for label in ("harmful", "benign"):
            ids = [task.example.row_id for task in entry.tasks if task.label == label]
            drawn = _in_order_of_draw(ids, count, prepared.safety.seed)
            groups.append([(entry.index, row_id) for row_id in drawn])
    turns = [key for turn in zip_longest(*groups) for key in turn if key is not None]
    chosen: set[Key] = set(turns[:count])

    def fewer(entry: Any) -> Any:
        return replace(entry, tasks=tuple(task for task in entry.tasks if task.key in chosen), bad=())

    entries = (fewer(entry) for entry in prepared.entries)
    return replace(prepared, entries=tuple(entry for entry in entries if entry.tasks))


def _in_order_of_draw(row_ids: list[str], count: int, seed: int) -> list[str]:
    drawn: list[str] = []
    for size in range(1, min(count, len(row_ids)) + 1):
        drawn += sorted(select_rows(row_ids, size, seed) - set(drawn))
    return drawn


def try_rows(
    cfg: Any, prepared: Prepared, before: Plan, count: int, make_engine: Callable[..., Engine] = start_engine
) -> Trial:
    """Run a few rows; what they make stays in the journal for the real run.

    Args:
        cfg: the final Axolotl config.
        prepared: the whole stage.
        before: its plan, for where it runs.
        count: rows.
        make_engine: how an engine is started; tests script one.

    Raises:
        StageError: the disk does not take what is written.
    """
    from axolotl_safety.pipeline.stage import answer, start_prepared

    few = spread(prepared, count)
    meters: list[Meter] = []

    def start() -> Meter:
        meters.append(Meter(start_prepared(few, make_engine)))
        meters[0].warm_up(few.models, few.tokens.stop_token_ids[0])
        return meters[0]

    command, work_dir = f"axolotl safety-plan {cfg.axolotl_config_path} --try {count}", prepared.work_dir
    with interruptible(command), exclusive(work_dir), writing_in(work_dir):
        journals = few.open_journals()
        queue = WorkQueue(journals, start)
        try:
            outcomes, _ = answer(few, queue)
            after = make_plan(cfg, prepared, journals, before.place)
        finally:
            queue.close()
    measured = meters[0].measured if meters else []
    seconds = sum(one.seconds for one in measured)
    return Trial(
        tuple(outcome for rows in outcomes.values() for outcome in rows),
        queue.made["completion"],
        meters[0].rate if meters else None,
        seconds,
        after,
        left(after, measured) if seconds else None,
    )


def left(plan: Plan, measured: Sequence[Measured]) -> float | None:
    """Seconds for the rest at the speed that was measured.

    On a card with figures, the plan's own seconds are corrected by how wrong they were about the measured calls:
    eight rows leave slots empty, and the plan knows what filling them gains. Elsewhere the work is counted in FLOPs (2
    per parameter and token), which takes no gain from larger batches into account.
    """
    seconds = sum(one.seconds for one in measured)
    if plan.seconds is not None and plan.engine is not None and plan.place.card is not None:
        seats = {seat.name: seat for seat in plan.engine.seats}
        card = combined(plan.place.card, plan.engine.parallel)
        eager = plan.backend == "transformers"
        predicted = 0.0
        for one in measured:
            model, seat = plan.residents[one.phase.model], seats[one.phase.model]
            predicted += phase_seconds(one.phase, model, seat, card, RANGE["middle"], eager)
        return plan.seconds["middle"] * seconds / predicted
    if not set(plan.sizes) >= {one.phase.model for one in measured}:
        return None

    def work(phases: Any) -> float:
        return sum(
            plan.sizes[phase.model].parameters * (phase.prompt_tokens + phase.new_tokens)
            for phase in phases
            if phase.model in plan.sizes
        )

    done = work(one.phase for one in measured)
    return work(plan.load.phases) * seconds / done if done else None


@dataclass(frozen=True)
class Measured:
    """One call of the engine: the work, as a phase of known lengths, and its seconds."""

    phase: Phase
    seconds: float


class Meter:
    """An engine that notes what every call took. Loading is not part of it: `warm_up` has each model loaded before."""

    def __init__(self, engine: Engine):
        """Wrap an engine."""
        self._engine = engine
        self.measured: list[Measured] = []

    @property
    def figures(self) -> EngineFigures:
        """Those of the engine."""
        return self._engine.figures

    def warm_up(self, models: Iterable[str], token_id: int) -> None:
        """Have every model write one token. Nothing of it is kept."""
        sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=1)
        requests = [Request(f"warm-up {name}", name, (token_id,), sampling, 0, ()) for name in models]
        for _ in self._engine.run(requests):
            pass

    def run(self, requests: Iterable[Request | ScoreRequest]) -> Iterator[Result]:
        """As the engine does."""
        requests = list(requests)
        started = time.monotonic()
        written = 0
        for result in self._engine.run(requests):
            written += len(result.token_ids) if isinstance(result, Completion) else 0
            yield result
        seconds = time.monotonic() - started
        if requests:
            read = sum(len(one.prompt_token_ids) + len(getattr(one, "response_token_ids", ())) for one in requests)
            longest = max((one.sampling.max_new_tokens for one in requests if isinstance(one, Request)), default=0)
            phase = Phase("measured", requests[0].model, len(requests), read, written, longest, guessed=False)
            self.measured.append(Measured(phase, seconds))

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    @property
    def seconds(self) -> float:
        """Of all calls."""
        return sum(one.seconds for one in self.measured)

    @property
    def rate(self) -> float | None:
        """Tokens per second that the target wrote, None if it wrote none."""
        wrote = [one for one in self.measured if one.phase.model == "target" and one.phase.new_tokens]
        seconds = sum(one.seconds for one in wrote)
        return sum(one.phase.new_tokens for one in wrote) / seconds if seconds else None
