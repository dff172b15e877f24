"""Candidates: ask for one completion of a row, check it, put it before the guards.

What the methods share. A method only says which message the target sees (the proposal) and which candidates it wants;
everything here is the same whatever the proposal was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from axolotl_safety.config.prompts import Prompt
from axolotl_safety.data.types import Task
from axolotl_safety.engines.base import Completion, Failure, Request, Sampling
from axolotl_safety.engines.queue import Purpose, content_id, gather
from axolotl_safety.guards.judge import GuardInput, judge

from .base import MethodContext
from .checks import Response, check_decision, check_form, copies, leaks

_MIN_ROOM = 64


@dataclass(frozen=True)
class Proposal:
    """What the target sees for one row.

    Attributes:
        name: method, prompt and version, for provenance: ``thinksafe/refuse@1``.
        prompt: the template, for leak checks and provenance.
        message: the user message.
        harmless: the same message with harmless words in the place of the row's text.
        thought: thought of the reference that the message shows, empty if it shows none.
        answer: likewise the answer.
        stage: ``transform``, ``refine0``...; part of the request's identity.
        begun_ids: what the response begins with already; no part of what is checked and trained.
        hinge_ids: what stands behind that, before the model goes on: the beginning of what is checked and trained.
    """

    name: str
    prompt: Prompt
    message: str
    harmless: str
    thought: str
    answer: str
    stage: str
    begun_ids: tuple[int, ...] = ()
    hinge_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """One completion for a row, or why none could be asked for.

    Attributes:
        request_id: empty if nothing was asked.
        reason: empty if accepted.
        proposal: name of what the target saw.
        stage: that of its proposal.
        asked_ids: the prompt that the target saw, with what the response began with; a hinge is part of the response.
        logprob: nats, everything sampled, under that prompt at temperature 1.
        verdict: one word per guard.
        nll: nats per token at the raw prompt under the frozen target.
        log_weight: log p(response | raw prompt) - log q(response | asked prompt) at the sampling temperature, nats.
        ess: effective sample size that a draw by weight had, of all candidates among which it drew.
        tempering: exponent of the weights in that draw; 0 means that it fell back to the first candidate.
    """

    request_id: str
    reason: str
    proposal: str = ""
    asked_ids: tuple[int, ...] = ()
    logprob: float = 0.0
    thinking: str = ""
    answer: str = ""
    token_ids: tuple[int, ...] = ()
    verdict: str = ""
    nll: float | None = None
    log_weight: float | None = None
    ess: float | None = None
    tempering: float | None = None
    stage: str = ""


def accepted(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those without a reject reason, in the order of their index."""
    return [candidate for candidate in candidates if not candidate.reason]


async def attempts(
    ctx: MethodContext,
    task: Task,
    proposal: Proposal,
    count: int,
    n: int,
    kind: str = "attempt",
    read: Callable[[Candidate], Candidate] = lambda candidate: candidate,
) -> list[Candidate]:
    """Candidates of one proposal, ``n`` at once, up to ``count`` times; the first attempt with a sound one is the last.

    Args:
        ctx: what the method runs with.
        task: the row.
        proposal: what the target sees of it.
        count: attempts.
        n: candidates per attempt.
        kind: that of the requests' purpose.
        read: what to make of a candidate's reason where another one than a sound candidate is wanted.

    Returns:
        Every candidate that was asked for, in the order of their index; one alone where the row cannot be asked.
    """
    shown = _shown(ctx, task, proposal)
    if isinstance(shown, str):
        return [Candidate("", shown, proposal.name, stage=proposal.stage)]
    tried: list[Candidate] = []
    for number in range(count):
        indices, purpose = range(number * n, (number + 1) * n), Purpose(kind, proposal.name, number, task.entry)
        made = await gather([_candidate(ctx, task, proposal, shown, index, purpose) for index in indices])
        tried += map(read, made)
        if accepted(tried):
            break
    return tried


async def _candidate(
    ctx: MethodContext, task: Task, proposal: Proposal, shown: _Shown, index: int, purpose: Purpose
) -> Candidate:
    """Sample, check and judge one candidate."""
    identity = (ctx.fingerprint, ctx.seed, task.example.row_id, proposal.stage, index)
    request_id = content_id("completion", identity, shown.prompt_ids, shown.sampling.as_dict())
    stops = ctx.tokens.stop_token_ids
    request = Request(request_id, "target", shown.prompt_ids, shown.sampling, ctx.seed, stops, ctx.turn)
    note = {"row_id": task.example.row_id, "prompt": proposal.prompt.label, "stage": proposal.stage}
    completion = await ctx.queue.completion(request, note, purpose)
    candidate = _check(ctx, task, proposal, request, completion)
    if candidate.reason:
        return candidate
    asked = GuardInput(task.example.asked, candidate.thinking, candidate.answer, task.example.label or "")
    said = await judge(ctx.queue, ctx.guards, asked)
    return replace(candidate, reason=said.reason or _contradicts(task, said.refusal), verdict=said.verdict)


@dataclass(frozen=True)
class _Shown:
    """A proposal as the target sees it: its ids, and how much may follow."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling


def _shown(ctx: MethodContext, task: Task, proposal: Proposal) -> _Shown | str:
    """What is the same for every candidate of a proposal, or the reason why none can be asked."""
    prompt_ids = ctx.tokens.prompt_ids(proposal.message, proposal.harmless, task.example.history)
    if prompt_ids is None:
        return "control_token"
    assert ctx.sampling is not None
    # Both bounds are the row's own: another row's length must not change this request's identity.
    room = min(ctx.sampling.max_new_tokens, ctx.sequence_len - len(task.prompt_ids) - len(proposal.hinge_ids))
    prompt_ids += proposal.begun_ids + proposal.hinge_ids
    if ctx.max_positions is not None:
        room = min(room, ctx.max_positions - len(prompt_ids))
    if room < min(_MIN_ROOM, ctx.sampling.max_new_tokens):
        return "prompt_too_long"
    return _Shown(prompt_ids, replace(ctx.sampling, max_new_tokens=room))


def _check(
    ctx: MethodContext, task: Task, proposal: Proposal, request: Request, completion: Completion | Failure
) -> Candidate:
    """Everything about a completion that needs no guard."""
    hinge_ids = proposal.hinge_ids
    asked = (proposal.name, request.prompt_token_ids[: len(request.prompt_token_ids) - len(hinge_ids)])
    if isinstance(completion, Failure):
        return Candidate(request.request_id, f"engine_{completion.reason}", *asked, stage=proposal.stage)
    token_ids = hinge_ids + completion.token_ids
    split = ctx.tokens.split(proposal.begun_ids + token_ids)
    response = Response(task.example.prompt, split.thinking, split.answer, token_ids)
    reason = check_form(response, completion.finish_reason, split.fault)
    if proposal.begun_ids:  # what it began with has a part in the form alone
        if ctx.tokens.thought_length(proposal.begun_ids):
            begun = ctx.tokens.split(proposal.begun_ids).answer
            split = replace(split, thinking="", answer=split.answer.removeprefix(begun).strip())
        else:
            split = replace(split, thinking=ctx.tokens.rest_of_thought(token_ids))
        response = replace(response, thinking=split.thinking, answer=split.answer)
    if not reason and leaks(response, proposal.prompt):
        reason = "leak"
    if not reason and proposal.answer and copies(response, proposal.thought, proposal.answer):
        reason = "copy"
    if not reason:
        reason = check_decision(split.answer, task.expect)
    if not reason and len(task.prompt_ids) + len(token_ids) > ctx.sequence_len:
        reason = "too_long"
    said = (completion.logprob, split.thinking, split.answer, token_ids)
    return Candidate(request.request_id, reason, *asked, *said, stage=proposal.stage)


def _contradicts(task: Task, refusal: bool | None) -> str:
    """A guard's own word on refusal must not contradict what the row needs."""
    if task.expect == "refuse" and refusal is False:
        return "not_refused"
    return "over_refused" if task.expect == "answer" and refusal is True else ""
