"""Recovery rows: behind the target's own thought that went wrong, cut somewhere, its own way back.

A harmful prompt is answered as it is; a thought whose response the guard calls unsafe is cut, and a hinge is put behind
it. Then comes a whole response of the target's own, given under steering without a sight of that thought (a hinge that
starts anew), or the target goes on from there under steering. A benign prompt is steered instead; a thought that
refused is cut, and the way back is made without steering. The row is raw prompt and cut thought, both masked, then
hinge and way back, trained. RECAP (arXiv 2510.00938) trains behind such prefixes by reinforcement, with other models'
thoughts.

Checks and guards read what is trained, and where the target starts anew its response as given. What stands before is
unsafe by choice: a guard that reads it too rejects every late cut.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace

from axolotl_safety.config import RecoverConfig, SafetyConfig
from axolotl_safety.config.hinges import BENIGN_HINGES, HARMFUL_HINGES, Hinge, resolve_hinge
from axolotl_safety.config.prompts import STEERING_PROMPTS, Prompt, resolve_steering
from axolotl_safety.data.types import UNLABELLED, Outcome, Task
from axolotl_safety.engines.queue import content_id

from .base import Expected, Method, MethodContext
from .candidates import Candidate, Proposal, accepted, attempts
from .choice import choose, outcome, scored

THOUGHT = "thought"  # kind of request: what follows is asked only if one of them was as wanted
_DRY_THOUGHT = 256  # tokens of a thought that a plan assumes: a guess
_PARTIAL = "\ufffd"  # what a cut character decodes to


async def answer(task: Task, ctx: MethodContext) -> Outcome:
    """Find a thought that went wrong, cut it, and climb the hinges until one leads to a sound way back."""
    config: RecoverConfig = ctx.config
    benign = task.label == "benign"
    tried, thought_ids = await _thought(task, ctx, benign)
    if thought_ids is None:
        return outcome(ctx, task, tried, None, None)
    prompt = STEERING_PROMPTS["none"] if benign else resolve_steering(config.prompt)
    names, known = (config.benign_hinges, BENIGN_HINGES) if benign else (config.hinges, HARMFUL_HINGES)
    hinges = [resolve_hinge(name, known) for name in names]
    answering = [hinge for hinge in hinges if hinge.answer or hinge.restart]
    begun_ids = cut(ctx, task, thought_ids, bool(answering))
    behind = replace(task, prompt_ids=task.prompt_ids + begun_ids, reference_ids=None)
    fresh: list[Candidate] = []
    chosen = None
    for hinge in answering if ctx.tokens.thought_length(begun_ids) else hinges:
        tried += fresh
        way = _restart if hinge.restart else _continue
        fresh, chosen = await way(ctx, behind, begun_ids, prompt, hinge)
        if chosen:
            break
    ended = outcome(ctx, behind, [*tried, *fresh], chosen, None)
    began = ctx.tokens.rest_of_thought(begun_ids).removeprefix(ctx.tokens.thinking.open).strip()
    said = ctx.tokens.split(begun_ids).answer
    return replace(ended, begun_tokens=len(begun_ids), reference_thinking=began, reference_answer=said)


async def _thought(task: Task, ctx: MethodContext, benign: bool) -> tuple[list[Candidate], tuple[int, ...] | None]:
    """Everything that was tried for a thought that went wrong, and the ids of its response if there is one."""
    config: RecoverConfig = ctx.config
    prompt = resolve_steering(config.prompt) if benign else STEERING_PROMPTS["none"]
    wanted = "over_refused" if benign else "guard_unsafe"

    def read(candidate: Candidate) -> Candidate:
        if candidate.reason == wanted:
            return replace(candidate, reason="")
        sound = candidate.reason in ("", "over_refused")
        return replace(candidate, reason="nothing_to_recover") if sound else candidate

    asked = replace(task, expect="answer")  # a harmful prompt's too: what refuses needs no way back
    proposal = _message(prompt, task, f"recover/{THOUGHT}/{prompt.label}", f"recover/{THOUGHT}/{prompt.sha256[:16]}")
    # One at a time: any one will do.
    tried = await attempts(ctx, asked, proposal, config.attempts * config.n, 1, THOUGHT, read)
    found = next(iter(accepted(tried)), None)
    if found is None and ctx.queue.dry and any(candidate.request_id for candidate in tried):
        room = min(_DRY_THOUGHT, (ctx.sampling.max_new_tokens if ctx.sampling else _DRY_THOUGHT) // 2)
        return tried, ctx.tokens.begun_ids(" ".join("x" * room))[:room]
    return tried, found.token_ids if found else None


def cut(ctx: MethodContext, task: Task, response_ids: tuple[int, ...], closable: bool = False) -> tuple[int, ...]:
    """The beginning of a response: its whole thought, or as far as a token drawn from the thought's later part.

    Where it may be closed, a share of the rows has the whole thought with its closing marker, every other one of them
    with a part of the answer. The draw depends on seed and row alone. No character is cut through.

    Args:
        ctx: what the method runs with.
        task: the row.
        response_ids: thought and answer.
        closable: a whole thought may be closed, so that the way back comes in the answer.
    """
    config: RecoverConfig = ctx.config
    rng = random.Random(content_id("cut", ctx.seed, task.example.row_id))
    start, end = ctx.tokens.thought_span(response_ids)
    start, end = (start, end) if end else (0, len(response_ids))  # a plan's has no end
    drawn, bare = rng.random(), rng.random() < 0.5
    if closable and end < len(response_ids) and config.whole <= drawn < config.whole + config.closed:
        answer_at = _answer_at(ctx, response_ids)
        begun = rng.randrange(answer_at, max(answer_at + 1, len(response_ids) - 1)) if bare else answer_at
        return response_ids[: _between_characters(ctx, response_ids, begun, answer_at, len(response_ids))]
    whole = drawn < config.whole + config.closed
    at = start + max(1, math.ceil(config.cut_from * (end - start)))
    place = end if whole or at >= end else rng.randrange(at, end)
    # With the blank space before its marker, or without: a thought that somebody puts there ends in either.
    while bare and place > start + 1 and not ctx.tokens.decode([response_ids[place - 1]]).strip():
        place -= 1
    return response_ids[: _between_characters(ctx, response_ids, place, start + 1, end)]


def _between_characters(ctx: MethodContext, ids: tuple[int, ...], place: int, first: int, last: int) -> int:
    """The nearest place from ``first`` to ``last`` that cuts no character, before ``place`` where there is one."""

    def partial(stop: int) -> bool:
        return ctx.tokens.decode(list(ids[:stop])).endswith(_PARTIAL)

    while place > first and partial(place):
        place -= 1
    while place < last and partial(place):
        place += 1
    return place


def _answer_at(ctx: MethodContext, response_ids: tuple[int, ...]) -> int:
    """Where the answer begins, behind the closing marker and the blank space after it."""
    place = ctx.tokens.thought_length(response_ids)
    while place < len(response_ids) and not ctx.tokens.decode([response_ids[place]]).strip():
        place += 1
    return place


async def _continue(
    ctx: MethodContext, behind: Task, begun_ids: tuple[int, ...], prompt: Prompt, hinge: Hinge
) -> tuple[list[Candidate], Candidate | None]:
    """The target goes on behind the beginning and the hinge: every candidate, and the one to train on."""
    config: RecoverConfig = ctx.config
    if ctx.tokens.thought_length(begun_ids):
        hinge_ids = ctx.tokens.next_ids(_in_answer(ctx, begun_ids, hinge.answer or ""))
    else:
        hinge_ids = ctx.tokens.next_ids(_in_thought(ctx, begun_ids, hinge.text), hinge.answer)
    proposal = replace(_asked(prompt, behind, hinge), begun_ids=begun_ids, hinge_ids=hinge_ids)
    tried = await attempts(ctx, behind, proposal, config.attempts, config.n)
    fresh, _ = await scored(ctx, behind, tried)
    return fresh, choose(ctx, behind, fresh)


async def _restart(
    ctx: MethodContext, behind: Task, begun_ids: tuple[int, ...], prompt: Prompt, hinge: Hinge
) -> tuple[list[Candidate], Candidate | None]:
    """The target answers from the start, without having seen the beginning; that is put behind it and the hinge.

    Behind a closed thought only the answer is. Checks, guards, NLL and choice are those of the response as given.
    """
    config: RecoverConfig = ctx.config
    closed = ctx.tokens.thought_length(begun_ids) > 0
    alone = replace(behind, prompt_ids=behind.prompt_ids[: len(behind.prompt_ids) - len(begun_ids)])
    if closed:
        hinge_ids = ctx.tokens.next_ids(_in_answer(ctx, begun_ids, ""))
    else:
        hinge_ids = ctx.tokens.next_ids(_in_thought(ctx, begun_ids, f"{hinge.text}\n"))

    def joined(candidate: Candidate) -> tuple[int, ...]:
        return hinge_ids + own_ids(ctx, candidate.token_ids, closed)

    def fits(candidate: Candidate) -> Candidate:
        long = not candidate.reason and len(behind.prompt_ids) + len(joined(candidate)) > ctx.sequence_len
        return replace(candidate, reason="too_long") if long else candidate

    tried = await attempts(ctx, alone, _asked(prompt, behind, hinge), config.attempts, config.n, read=fits)
    fresh, _ = await scored(ctx, alone, tried)
    chosen = choose(ctx, alone, fresh)
    if chosen is None:
        return fresh, None
    thinking = "" if closed else f"{hinge.text}\n{chosen.thinking}"
    return fresh, replace(chosen, token_ids=joined(chosen), thinking=thinking)


def own_ids(ctx: MethodContext, response_ids: tuple[int, ...], closed: bool) -> tuple[int, ...]:
    """A response without what opens its thought, or its answer alone: its very tokens.

    Where one token holds the end of a marker and what follows it (``><`` in ``</think><response>``), what follows is
    encoded anew.
    """
    think, (*body, end) = ctx.tokens.thinking, response_ids
    start = _answer_at(ctx, response_ids) if closed else ctx.tokens.thought_span(response_ids)[0]
    text = ctx.tokens.decode(body)
    text = text.partition(think.close)[2] if closed else text.lstrip().removeprefix(think.open)
    own = (
        body[start:] if ctx.tokens.decode(body[start:]).lstrip() == text.lstrip() else ctx.tokens.encode(text.lstrip())
    )
    return (*own, end)


def _in_thought(ctx: MethodContext, begun_ids: tuple[int, ...], text: str) -> str:
    """A hinge as it follows what has begun."""
    return text if ctx.tokens.decode(list(begun_ids))[-1:].isspace() else f" {text}"


def _in_answer(ctx: MethodContext, begun_ids: tuple[int, ...], text: str) -> str:
    """Likewise behind a closed thought: an answer that has begun is left standing as a paragraph."""
    answer = ctx.tokens.decode(list(begun_ids)).partition(ctx.tokens.thinking.close)[2]
    return f"\n\n{text}" if answer.strip() and not answer[-1].isspace() else text


def _asked(prompt: Prompt, task: Task, hinge: Hinge) -> Proposal:
    """The message, by prompt and hinge."""
    name = _name(hinge, task.label == "benign")
    return _message(prompt, task, name, f"recover/{prompt.sha256[:16]}/{hinge.sha256[:16]}")


def _name(hinge: Hinge, benign: bool) -> str:
    """For provenance: a benign prompt's hinge that a harmful one's may be too says that nothing steers behind it."""
    shared = hinge.name in HARMFUL_HINGES or hinge.name not in BENIGN_HINGES
    return f"recover/{hinge.label}" + (f"/{STEERING_PROMPTS['none'].label}" if benign and shared else "")


def _message(prompt: Prompt, task: Task, name: str, stage: str) -> Proposal:
    shown, harmless = (prompt.render({"prompt": text}) for text in (task.example.prompt, "x"))
    return Proposal(name, prompt, shown, harmless, "", "", stage)


def _prompts(safety: SafetyConfig) -> Mapping[str, Prompt]:
    config, none = safety.recover, STEERING_PROMPTS["none"]
    steering = resolve_steering(config.prompt)
    found = {f"recover/{THOUGHT}/{prompt.label}": prompt for prompt in (none, steering)}
    for names, known, prompt in (
        (config.hinges, HARMFUL_HINGES, steering),
        (config.benign_hinges, BENIGN_HINGES, none),
    ):
        found |= {_name(resolve_hinge(name, known), known is BENIGN_HINGES): prompt for name in names}
    return found


# Guesses for 1.5B to 8B models: how often a thought is unsafe (a benign one refuses), and how often one is turned.
_EXPECTED = Expected(
    acceptance={"harmful": 0.5, "benign": 0.5, UNLABELLED: 0.3},
    tokens=lambda label, reference: 500 if label == "harmful" else 1000,
)

RECOVER = Method(
    "recover",
    answer,
    reads_reference=False,
    config=lambda safety: safety.recover,
    prompts=_prompts,
    expected=_EXPECTED,
)
