"""What is still to be asked: the methods' own coroutines, before a queue that notes instead of asking.

The first attempt is known exactly, prompts included. Whether a row needs a further attempt is not; each missing
request counts with the chance that it will be made.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from axolotl_safety.data.sources import select_rows
from axolotl_safety.data.types import Key, Outcome
from axolotl_safety.engines.base import Completion, Failure
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.queue import Answerer, Found, Purpose, Work, WorkQueue
from axolotl_safety.methods.run import answer_rows
from axolotl_safety.pipeline.inputs import StageInputs
from axolotl_safety.util.loop import run_async


@dataclass(frozen=True)
class Wanted:
    """A request that the journal does not answer.

    Attributes:
        kind: ``completion``, ``verdict`` or ``score``.
        purpose: what it would be asked for.
        model: who would answer.
        row_id: of the row that a completion is for, else empty.
        prompt_tokens: to read; of a score, its response too.
        limit: most tokens to write.
    """

    kind: str
    purpose: Purpose
    model: str
    row_id: str
    prompt_tokens: int
    limit: int

    @property
    def key(self) -> Key:
        """The row, in its dataset entry."""
        return (self.purpose.entry, self.row_id)


@dataclass
class Walk:
    """What a walk over the rows found.

    Attributes:
        wanted: what is missing, each row's in the order of asking.
        held: by kind, how many of the requests stand in the journal.
        lengths: by request id, tokens of the completions that the journal holds.
        outcomes: how every row would end if nothing more were asked.
        scale: by entry, how many rows one walked row stands for.
    """

    wanted: list[Wanted] = field(default_factory=list)
    held: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, int] = field(default_factory=dict)
    outcomes: dict[int, list[Outcome]] = field(default_factory=dict)
    scale: dict[int, float] = field(default_factory=dict)


class DryQueue(WorkQueue):
    """Answers from the journals and notes what they lack; nothing is asked and nothing written."""

    dry = True

    def __init__(self, journals: dict[str, Journal], walk: Walk):
        """Look into these journals, and note into this walk."""
        super().__init__(journals, None)
        self._walk = walk
        self._seen: set[str] = set()

    async def ask(
        self,
        request: Work,
        kind: str,
        note: dict[str, Any] | None = None,
        judge: Answerer | None = None,
        purpose: Purpose | None = None,
    ) -> Found:
        """As the journal has it, else a failure, upon which the method asks again; each is counted once."""
        held, first = self._held(request, kind), request.request_id not in self._seen
        self._seen.add(request.request_id)
        if held is None and first:
            row_id = (note or {}).get("row_id", "")
            limit = getattr(getattr(request, "sampling", None), "max_new_tokens", 0)
            read = request.tokens - limit
            self._walk.wanted.append(Wanted(kind, purpose or Purpose(), request.model, row_id, read, limit))
        elif first:
            self._walk.held[kind] += 1
            if isinstance(held, Completion) and kind == "completion":
                self._walk.lengths[request.request_id] = len(held.token_ids)
        return held or Failure(request.request_id, "lost", "")


def take_rows(inputs: StageInputs, count: int) -> StageInputs:
    """The same with at most so many rows per entry, drawn as ``max_rows`` draws them."""

    def fewer(entry: Any) -> Any:
        chosen = select_rows([task.example.row_id for task in entry.tasks], count, inputs.safety.seed)
        return replace(entry, tasks=tuple(task for task in entry.tasks if task.example.row_id in chosen), bad=())

    return replace(inputs, entries=tuple(fewer(entry) for entry in inputs.entries))


def walk(inputs: StageInputs, journals: dict[str, Journal], sample: int | None = None) -> Walk:
    """Find out what is missing.

    Args:
        inputs: the stage.
        journals: as they are.
        sample: look at this many rows of each entry only.
    """
    looked = take_rows(inputs, sample) if sample else inputs
    found = Walk(
        scale={
            whole.index: len(whole.tasks) / len(part.tasks)
            for whole, part in zip(inputs.entries, looked.entries, strict=True)
        }
    )
    if inputs.backend != "none":
        queue = DryQueue(journals, found)
        answered = run_async(answer_rows(looked.contexts(queue), looked.safety, looked.entries, queue))
        found.outcomes = answered.outcomes
    return found


def attempts(found: Walk, chance: Callable[[Wanted], float]) -> tuple[list[float], dict[Key, float]]:
    """How likely each wanted request is to be made.

    The candidates of one attempt are asked together; the next attempt is made if none of them was accepted. What goes
    on from a thought is asked if a thought was as wanted.

    Args:
        found: the walk.
        chance: that one candidate is accepted.

    Returns:
        A weight per wanted request (1 for what is no completion), and by row the chance that it ends with nothing.
    """
    open_: dict[tuple[Key, bool], float] = defaultdict(lambda: 1.0)  # chance that no candidate was accepted yet
    now: dict[tuple[Key, bool], tuple[Purpose, float]] = {}
    thoughts = {one.key for one in found.wanted if one.purpose.kind == "thought"}
    weights = []
    for one in found.wanted:
        if one.kind != "completion" or one.purpose.kind == "probe":
            weights.append(1.0)
            continue
        thought = one.purpose.kind == "thought"
        place = (one.key, thought)
        if place not in now or now[place][0] != one.purpose:
            now[place] = (one.purpose, open_[place])
        reached = 1.0 if thought or one.key not in thoughts else 1 - open_[one.key, True]
        weights.append(now[place][1] * reached)
        open_[place] *= 1 - chance(one)
    left = {
        key: 1 - (1 - open_[key, False]) * (1 - open_[key, True] if key in thoughts else 1)
        for key in dict.fromkeys(key for key, _ in open_)
    }
    failing = sum(left.values()) / len(left) if left else 1.0
    weights = [
        failing if one.purpose.kind == "original" else weight for one, weight in zip(found.wanted, weights, strict=True)
    ]
    return weights, left
