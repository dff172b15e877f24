"""The vanilla-SFT baseline: the foreign rows as they are, through the same adapters and the same hand-off."""

from __future__ import annotations

from axolotl_safety.data.types import Outcome, Task

from .base import Method, MethodContext


async def answer(task: Task, ctx: MethodContext) -> Outcome:
    """Take the reference for the answer; nothing is generated."""
    reference = task.reference_ids or ()
    reason = "" if len(task.prompt_ids) + len(reference) <= ctx.sequence_len else "too_long"
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


VANILLA = Method("vanilla", answer, reads_reference=True, generates=False)
