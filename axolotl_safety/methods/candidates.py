"""Candidates: ask for one completion per row and index, check it, put it before the guards.

What DGR and ThinkSafe share. A method only says which message the target sees (the proposal) and which candidates
it wants; everything here is the same whatever the proposal was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from axolotl_safety.config.prompts import Prompt
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.data.types import Key, Task
from axolotl_safety.engines.base import Failure, Request, Sampling
from axolotl_safety.engines.queue import WorkQueue, content_id
from axolotl_safety.guards.judge import Guard, Judged, judge

from .checks import Response, check_decision, check_form, copies, leaks

_MIN_ROOM = 64


@dataclass(frozen=True)
class Workshop:
    """What every method needs.

    Attributes:
        queue: the engine's door.
        tokens: the target's tokenizer.
        guards: the judges.
        fingerprint: everything about the target and the engine that changes what is sampled.
        max_positions: the target's window in tokens.
        sequence_len: the longest row that Axolotl keeps, in tokens.
        sampling: as resolved for this method.
        seed: as set by the user.
        choice: ``first``, ``lowest_nll`` or ``resample``.
    """

    queue: WorkQueue
    tokens: TargetTokenizer
    guards: list[Guard]
    fingerprint: str
    max_positions: int | None
    sequence_len: int
    sampling: Sampling
    seed: int
    choice: str


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
    """

    name: str
    prompt: Prompt
    message: str
    harmless: str
    thought: str
    answer: str
    stage: str


@dataclass(frozen=True)
class Candidate:
    """One completion for a row, or why none could be asked for.

    Attributes:
        request_id: empty if nothing was asked.
        reason: empty if accepted.
        proposal: name of what the target saw.
        stage: that of its proposal.
        asked_ids: the prompt that the target saw.
        logprob: nats, whole response, under that prompt at temperature 1.
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


Tried = dict[Key, list[Candidate]]


def accepted(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those without a reject reason, in the order of their index."""
    return [candidate for candidate in candidates if not candidate.reason]


def attempt(
    shop: Workshop,
    tasks: Sequence[Task],
    proposals: Mapping[Key, Proposal],
    indices: Sequence[int],
    title: str,
    tried: Tried,
) -> None:
    """Sample, check and judge one candidate per task and index; append them to ``tried`` in that order."""
    asked: list[tuple[Task, Request]] = []
    for task in tasks:
        for index in indices:
            request = _request(shop, task, proposals[task.key], index)
            if isinstance(request, str):
                tried[task.key].append(
                    Candidate("", request, proposals[task.key].name, stage=proposals[task.key].stage)
                )
                break
            asked.append((task, request))
    owners = {request.request_id: (task, request) for task, request in asked}
    checked: dict[tuple[Key, str], Candidate] = {}

    def check(task: Task, request: Request) -> Candidate:
        key = (task.key, request.request_id)  # one request may serve the same row in two entries
        if key not in checked:
            checked[key] = _check(shop, task, proposals[task.key], request)
        return checked[key]

    shop.queue.finish(
        [request for _, request in asked],
        "completion",
        title,
        describe=lambda request: _note(owners[request.request_id][0], proposals),
        accept=lambda request_id: not check(*owners[request_id]).reason,
    )
    candidates = [check(task, request) for task, request in asked]
    sound = {
        place: Judged(task.example.asked, candidate.thinking, candidate.answer, task.example.label or "")
        for place, ((task, _), candidate) in enumerate(zip(asked, candidates, strict=True))
        if not candidate.reason
    }
    rulings = judge(shop.queue, shop.guards, sound)
    for place, ((task, _), candidate) in enumerate(zip(asked, candidates, strict=True)):
        if place in rulings:
            ruling = rulings[place]
            reason = ruling.reason or _contradicts(task, ruling.refusal)
            candidate = replace(candidate, reason=reason, verdict=ruling.verdict)
        tried[task.key].append(candidate)


def _note(task: Task, proposals: Mapping[Key, Proposal]) -> dict[str, str]:
    """Provenance that is stored with a completion."""
    proposal = proposals[task.key]
    return {"row_id": task.example.row_id, "prompt": proposal.prompt.label, "stage": proposal.stage}


def _request(shop: Workshop, task: Task, proposal: Proposal, index: int) -> Request | str:
    """The request for one candidate, or the reason why it cannot be asked."""
    prompt_ids = shop.tokens.prompt_ids(proposal.message, proposal.harmless, task.example.history)
    if prompt_ids is None:
        return "control_token"
    # Both bounds are the row's own: another row's length must not change this request's identity.
    room = min(shop.sampling.max_new_tokens, shop.sequence_len - len(task.prompt_ids))
    if shop.max_positions is not None:
        room = min(room, shop.max_positions - len(prompt_ids))
    if room < min(_MIN_ROOM, shop.sampling.max_new_tokens):
        return "prompt_too_long"
    sampling = replace(shop.sampling, max_new_tokens=room)
    identity = (shop.fingerprint, shop.seed, task.example.row_id, proposal.stage, index)
    request_id = content_id("completion", identity, prompt_ids, sampling.as_dict())
    return Request(request_id, "target", prompt_ids, sampling, shop.seed, shop.tokens.stop_token_ids)


def _check(shop: Workshop, task: Task, proposal: Proposal, request: Request) -> Candidate:
    """Everything about a completion that needs no guard."""
    completion = shop.queue.completion(request)
    asked = (proposal.name, request.prompt_token_ids)
    if isinstance(completion, Failure):
        return Candidate(request.request_id, f"engine_{completion.reason}", *asked, stage=proposal.stage)
    split = shop.tokens.split(completion.token_ids)
    response = Response(task.example.prompt, split.thinking, split.answer, completion.token_ids)
    reason = check_form(response, completion.finish_reason, split.fault)
    if not reason and leaks(response, proposal.prompt):
        reason = "leak"
    if not reason and proposal.answer and copies(response, proposal.thought, proposal.answer):
        reason = "copy"
    if not reason:
        reason = check_decision(split.answer, task.expect)
    if not reason and len(task.prompt_ids) + len(completion.token_ids) > shop.sequence_len:
        reason = "too_long"
    said = (completion.logprob, split.thinking, split.answer, completion.token_ids)
    return Candidate(request.request_id, reason, *asked, *said, stage=proposal.stage)


def _contradicts(task: Task, refusal: bool | None) -> str:
    """A guard's own word on refusal must not contradict what the row needs."""
    if task.expect == "refuse" and refusal is False:
        return "not_refused"
    return "over_refused" if task.expect == "answer" and refusal is True else ""
