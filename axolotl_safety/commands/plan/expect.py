"""What one candidate is expected to be: how likely it is accepted, and how long it is."""

from __future__ import annotations

from collections import defaultdict

from axolotl_safety.config.prompts import STEERING_PROMPTS
from axolotl_safety.data.types import Task
from axolotl_safety.pipeline.inputs import Prepared

from .requests import Walk, Wanted

# Chance that checks and guards accept one candidate. ThinkSafe (arXiv 2601.23143, Figs. 9 and 10) kept 87 to 99.8 % of
# the steered and 89 to 99 % of the benign responses by its guard alone; our checks ask for more. The rest are guesses.
_ACCEPTANCE = {
    ("thinksafe", "harmful"): 0.85,
    ("thinksafe", "benign"): 0.9,
    ("dgr", "harmful"): 0.7,
    ("dgr", "benign"): 0.7,
}
_UNSTEERED = 0.4  # of harmful prompts
# Tokens of a completion, thought included: guesses for 1.5B to 8B reasoning models on short questions.
LENGTHS = {"harmful": 500, "benign": 1200}
_REWRITE = 400  # or as long as the reference
_PRIOR_WEIGHT = 8  # measured completions that count as much as the guess
_MEASURED = 16  # from so many on it is no guess any more


class Expectation:
    """Acceptance and length by method and label: the guess, moved by what the journal shows."""

    def __init__(self, prepared: Prepared, found: Walk):
        """Look at the outcomes of the walk."""
        self.tasks: dict[str, Task] = {task.example.row_id: task for entry in prepared.entries for task in entry.tasks}
        self._limits = {method: drawn.max_new_tokens for method, drawn in prepared.sampling.items()}
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

    def acceptance(self, method: str, label: str, unsteered: bool = False) -> float:
        """Chance that one candidate is accepted."""
        if unsteered and label == "harmful":
            return _UNSTEERED
        seen = self._accepted[method, label]
        return (_ACCEPTANCE[method, label] * _PRIOR_WEIGHT + sum(seen)) / (_PRIOR_WEIGHT + len(seen))

    def length(self, method: str, label: str, reference: int = 0) -> float:
        """Tokens of one completion."""
        guess = max(_REWRITE, reference) if method == "dgr" else LENGTHS[label]
        guess = min(guess, self._limits.get(method, guess))
        seen = self._tokens[method, label]
        return (guess * _PRIOR_WEIGHT + sum(seen)) / (_PRIOR_WEIGHT + len(seen))

    def guessed(self, method: str, label: str) -> bool:
        """Whether the length is more guess than measurement."""
        return len(self._tokens[method, label]) < _MEASURED

    def of(self, one: Wanted) -> tuple[Task, str]:
        """Row and method of a wanted completion."""
        return self.tasks[one.row_id], "thinksafe" if one.stage.startswith("thinksafe/") else "dgr"

    def chance(self, one: Wanted) -> float:
        """That a wanted completion is accepted."""
        task, method = self.of(one)
        unsteered = one.stage == f"thinksafe/{STEERING_PROMPTS['none'].sha256[:16]}"
        return self.acceptance(method, task.label, unsteered)

    def tokens(self, one: Wanted) -> float:
        """That a wanted completion will have."""
        task, method = self.of(one)
        return min(one.limit, self.length(method, task.label, len(task.reference_ids or ())))
