"""What a method is given for a row and what it gives back. Every row ends here with a status and a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .examples import Example

Status = Literal["accepted", "fallback", "rejected"]
Expect = Literal["refuse", "answer", "any"]
Key = tuple[int, str]  # dataset entry and row id: the same row may stand in two entries


@dataclass(frozen=True)
class Task:
    """A usable source row with its ids.

    Attributes:
        entry: which dataset entry it belongs to.
        source: that dataset's name.
        example: the row.
        label: ``harmful`` or ``benign`` where row or user say so, or ``harmful`` where the reference refuses; else
            ``any``: nothing says what the prompt is, and the guard alone decides.
        expect: what a response must decide: ``refuse``, ``answer``, or ``any`` (then the guard alone decides).
        prompt_ids: the generation prompt for the raw prompt.
        reference_ids: the foreign response with its end token; None if the row has none that can be written.
    """

    entry: int
    source: str
    example: Example
    label: str
    expect: Expect
    prompt_ids: tuple[int, ...]
    reference_ids: tuple[int, ...] | None

    @property
    def key(self) -> Key:
        """Unique within a run."""
        return (self.entry, self.example.row_id)


@dataclass(frozen=True)
class Outcome:
    """How a row ended.

    Attributes:
        reason: empty when accepted, else why the row (or its rewrite, for a fallback) was refused.
        response_ids: what is trained on; empty when rejected.
        nll_reference: nats per token of the foreign response at the raw prompt, None if not scored.
        nll_accepted: likewise of what is trained on.
        proposal: what the target saw: ``dgr/rewrite@1``, ``thinksafe/refuse@1``, or ``vanilla``.
        categories: what the source files the row under.
        stage: where the response comes from: ``transform``, ``refine0``, ``thinksafe/...``; empty if nothing was asked.
        reference_thinking: the foreign thought, or the beginning of the model's own that it goes on from; else empty.
        reference_answer: the foreign answer, likewise.
        reference_tokens: length of the foreign response in tokens, its end token included.
        begun_tokens: how many of the last prompt ids are the beginning of a response that is not trained on.
        ess: effective sample size of a draw by weight, None where nothing was drawn so.
        tempering: exponent of its weights; 0 means that it fell back to the first candidate.
        request_ids: every completion asked for, in order.
        candidate_reasons: the reject reason of each of them, empty for an accepted one.
        candidate_proposals: the proposal of each of them.
    """

    row_id: str
    entry: int
    source: str
    prompt: str
    label: str
    status: Status
    reason: str = ""
    thinking: str = ""
    answer: str = ""
    prompt_ids: tuple[int, ...] = ()
    response_ids: tuple[int, ...] = ()
    nll_reference: float | None = None
    nll_accepted: float | None = None
    guard: str = ""
    verdict: str = ""
    proposal: str = ""
    ess: float | None = None
    tempering: float | None = None
    request_ids: tuple[str, ...] = ()
    candidate_reasons: tuple[str, ...] = ()
    candidate_proposals: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    stage: str = ""
    reference_thinking: str = ""
    reference_answer: str = ""
    reference_tokens: int = 0
    begun_tokens: int = 0

    @classmethod
    def of(cls, task: Task, **fields: Any) -> Outcome:
        """An outcome that carries over what the task says of its row."""
        reference = task.example if task.reference_ids else None
        return cls(
            row_id=task.example.row_id,
            entry=task.entry,
            source=task.source,
            prompt=task.example.prompt,
            label=task.label,
            prompt_ids=task.prompt_ids,
            categories=task.example.categories,
            reference_thinking=reference.thought if reference else "",
            reference_answer=reference.answer if reference else "",
            reference_tokens=len(task.reference_ids or ()),
            **fields,
        )

    @property
    def key(self) -> Key:
        """That of its task."""
        return (self.entry, self.row_id)

    @property
    def attempts(self) -> int:
        """How many completions were asked for."""
        return len(self.request_ids)


IGNORE = -100
UNLABELLED = "any"
# What a response must decide where a row's label alone says it.
EXPECTED: dict[str, Expect] = {"harmful": "refuse", "benign": "answer", UNLABELLED: "any"}

KL_MASK = "kl_mask"
