"""What is still to be asked: the stage's own walk over its rows, with a queue that notes instead of asking.

The first attempt is known exactly, prompts included. Whether a row needs a further attempt is not; each missing
request counts with the chance that it will be made.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from axolotl_safety.data.sources import select_rows
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.data.types import Outcome
from axolotl_safety.engines.base import Answer, Completion, Failure
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.queue import Work, WorkQueue, kind_of
from axolotl_safety.guards.judge import ORIGINALS
from axolotl_safety.methods import run as at_work
from axolotl_safety.pipeline.inputs import Prepared


@dataclass(frozen=True)
class Wanted:
    """A request that the journal does not answer.

    Attributes:
        kind: ``completion``, ``verdict`` or ``score``.
        title: as the progress line would say.
        model: who would answer.
        row_id: of the row that a completion is for, else empty.
        stage: likewise which proposal.
        prompt_tokens: to read; of a score, its response too.
        limit: most tokens to write.
    """

    kind: str
    title: str
    model: str
    row_id: str
    stage: str
    prompt_tokens: int
    limit: int


@dataclass
class Walk:
    """What a walk over the rows found.

    Attributes:
        wanted: what is missing, in the order of asking.
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
        self._seen: set[tuple[str, str]] = set()

    def finish(
        self,
        work: Sequence[Work],
        kind: str,
        title: str,
        describe: Callable[[Work], dict[str, Any]] | None = None,
        accept: Callable[[str], bool] | None = None,
        engine: Any = None,
    ) -> None:
        """Sort requests into held and wanted, each once."""
        for request in work:
            own = kind_of(request, kind)
            if (own, request.request_id) in self._seen:
                continue
            self._seen.add((own, request.request_id))
            if self._held(request, kind):
                self._walk.held[own] += 1
                continue
            note = describe(request) if describe else {}
            tokens = len(getattr(request, "prompt_token_ids", ())) + len(getattr(request, "response_token_ids", ()))
            limit = getattr(getattr(request, "sampling", None), "max_new_tokens", 0)
            place = (note.get("row_id", ""), note.get("stage", ""))
            self._walk.wanted.append(Wanted(own, title, request.model, *place, tokens, limit))

    def completion(self, request: Any, kind: str = "completion") -> Completion | Answer | Failure:
        """As the journal has it, else a failure, upon which the method asks again."""
        found = super().completion(request, kind)
        if kind == "completion" and isinstance(found, Completion):
            self._walk.lengths[request.request_id] = len(found.token_ids)
        return found


def take_rows(prepared: Prepared, count: int) -> Prepared:
    """The same with at most so many rows per entry, drawn as ``max_rows`` draws them."""

    def fewer(entry: Any) -> Any:
        chosen = select_rows([task.example.row_id for task in entry.tasks], count, prepared.safety.seed)
        return replace(entry, tasks=tuple(task for task in entry.tasks if task.example.row_id in chosen), bad=())

    return replace(prepared, entries=tuple(fewer(entry) for entry in prepared.entries))


def walk(prepared: Prepared, journals: dict[str, Journal], sample: int | None = None) -> Walk:
    """Find out what is missing.

    Args:
        prepared: the stage.
        journals: as they are.
        sample: look at this many rows of each entry only.
    """
    looked = take_rows(prepared, sample) if sample else prepared
    found = Walk(
        scale={
            whole.index: len(whole.tasks) / len(part.tasks)
            for whole, part in zip(prepared.entries, looked.entries, strict=True)
        }
    )
    if prepared.backend == "none":
        return found
    queue = DryQueue(journals, found)
    looked = replace(looked, tokens=_remembering(looked.tokens))
    found.outcomes, _ = at_work.run(looked.workshops(queue), looked.safety, looked.entries, looked.sequence_len)
    return found


def _remembering(tokens: TargetTokenizer) -> TargetTokenizer:
    """The same tokenizer, which renders no prompt twice: a walk asks for every row in every attempt."""
    remembering = copy.copy(tokens)
    remembering.prompt_ids = cache(tokens.prompt_ids)  # type: ignore[method-assign]
    return remembering


def attempts(found: Walk, chance: Callable[[Wanted], float]) -> tuple[list[float], dict[str, float]]:
    """How likely each wanted request is to be made.

    The candidates of one attempt are asked together; the next attempt is made if none of them was accepted.

    Args:
        found: the walk.
        chance: that one candidate is accepted.

    Returns:
        A weight per wanted request (1 for what is no completion), and by row id the chance that it ends with nothing.
    """
    left: dict[str, float] = defaultdict(lambda: 1.0)
    now: dict[str, tuple[str, float]] = {}
    weights = []
    for one in found.wanted:
        if one.kind != "completion" or one.title.startswith("probing "):
            weights.append(1.0)
            continue
        if now.get(one.row_id, ("", 0.0))[0] != one.title:
            now[one.row_id] = (one.title, left[one.row_id])
        weights.append(now[one.row_id][1])
        left[one.row_id] *= 1 - chance(one)
    failing = sum(left.values()) / len(left) if left else 1.0
    weights = [
        failing if one.kind == "verdict" and one.title == ORIGINALS else weight
        for one, weight in zip(found.wanted, weights, strict=True)
    ]
    return weights, dict(left)
