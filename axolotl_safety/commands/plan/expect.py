"""What one candidate is expected to be: how likely it is accepted, and how long it is."""

from __future__ import annotations

from collections import defaultdict

from axolotl_safety.data.types import UNLABELLED, Task
from axolotl_safety.methods.base import Expected, method_named
from axolotl_safety.pipeline.inputs import StageInputs

from .requests import Walk, Wanted

LABELS = ("harmful", "benign", UNLABELLED)
_PRIOR_WEIGHT = 8  # measured completions that count as much as the guess
_MEASURED = 16  # from so many on it is no guess any more
_UNKNOWN = Expected({label: 0.7 for label in LABELS}, lambda label, reference: 800.0)  # of a method that says nothing


class Expectation:
    """Acceptance and length by method and label: what the method expects, moved by what the journal shows."""

    def __init__(self, inputs: StageInputs, found: Walk):
        """Look at the outcomes of the walk."""
        self.tasks: dict[str, Task] = {task.example.row_id: task for entry in inputs.entries for task in entry.tasks}
        self._limits = {method: drawn.max_new_tokens for method, drawn in inputs.sampling.items()}
        self._expected = {name: method_named(name).expected or _UNKNOWN for name in inputs.sampling}
        self._tokens: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._accepted: dict[tuple[str, str], list[bool]] = defaultdict(list)
        judged = not any(one.kind == "verdict" for one in found.wanted)
        for outcome in (one for rows in found.outcomes.values() for one in rows):
            tried = zip(outcome.request_ids, outcome.candidate_reasons, outcome.candidate_proposals, strict=True)
            for request_id, reason, proposal in tried:
                if request_id in found.lengths:
                    key = (proposal.partition("/")[0], outcome.label)
                    self._tokens[key].append(found.lengths[request_id])
                    if judged:
                        self._accepted[key].append(not reason)

    def acceptance(self, method: str, label: str, proposal: str = "") -> float:
        """Chance that one candidate is accepted."""
        expected = self._expected[method]
        if label == "harmful" and proposal in expected.proposals:
            return expected.proposals[proposal]
        seen = self._accepted[method, label]
        guess = expected.acceptance.get(label, min(expected.acceptance.values()))
        return (guess * _PRIOR_WEIGHT + sum(seen)) / (_PRIOR_WEIGHT + len(seen))

    def length(self, method: str, label: str, reference: int = 0) -> float:
        """Tokens of one completion."""
        guess = min(self._expected[method].tokens(label, reference), self._limits[method])
        seen = self._tokens[method, label]
        return (guess * _PRIOR_WEIGHT + sum(seen)) / (_PRIOR_WEIGHT + len(seen))

    def rounds(self, method: str, config: object) -> int:
        """Rounds that follow an accepted response."""
        return self._expected[method].rounds(config)

    def guessed(self, method: str, label: str) -> bool:
        """Whether the length is more guess than measurement."""
        return len(self._tokens[method, label]) < _MEASURED

    def of(self, one: Wanted) -> tuple[Task, str]:
        """Row and method of a wanted completion."""
        return self.tasks[one.row_id], one.purpose.proposal.partition("/")[0]

    def chance(self, one: Wanted) -> float:
        """That a wanted completion is accepted."""
        task, method = self.of(one)
        return self.acceptance(method, task.label, one.purpose.proposal)

    def tokens(self, one: Wanted) -> float:
        """That a wanted completion will have."""
        task, method = self.of(one)
        return min(one.limit, self.length(method, task.label, len(task.reference_ids or ())))
