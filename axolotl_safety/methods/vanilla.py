"""The vanilla-SFT baseline: the foreign rows as they are, through the same adapters and the same hand-off."""

from __future__ import annotations

from collections.abc import Sequence

from axolotl_safety.data.types import Outcome, Task


def run(sequence_len: int, tasks: Sequence[Task]) -> list[Outcome]:
    """One outcome per task, in order; nothing is generated."""
    return [_outcome(sequence_len, task) for task in tasks]


def _outcome(sequence_len: int, task: Task) -> Outcome:
    reference = task.reference_ids or ()
    reason = "" if len(task.prompt_ids) + len(reference) <= sequence_len else "too_long"
    return Outcome.of(
        task,
        status="rejected" if reason else "accepted",
        reason=reason,
        thinking=task.example.thought,
        answer=task.example.answer,
        response_ids=() if reason else reference,
        proposal="vanilla",
        stage="original",
    )
