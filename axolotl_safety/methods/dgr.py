"""DGR: the target rewrites a foreign safety response into its own distribution (after arXiv 2602.02136).

Transform: the target sees the request and the reference and writes its own response. Checks and guards keep what is
sound. Refine: the accepted rewrite becomes the reference, as long as the NLL at the raw prompt still falls. The
paper's prompts and its failure test are unpublished; these are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from axolotl_safety.config import AUTO, DGRConfig, SafetyConfig
from axolotl_safety.config.prompts import REWRITE_PROMPTS, Prompt, resolve_rewrite
from axolotl_safety.data.types import EXPECTED, UNLABELLED, Outcome, Task
from axolotl_safety.engines.queue import Purpose
from axolotl_safety.guards.judge import GuardInput, judge

from . import thinksafe
from .base import AutoPrompt, Expected, Method, MethodContext
from .candidates import Proposal, attempts
from .checks import check_decision
from .choice import choose, outcome, scored


async def answer(task: Task, ctx: MethodContext) -> Outcome:
    """Rewrite one row: ask, check, judge, try again; refine while the NLL falls; then as `on_failure` says."""
    config: DGRConfig = ctx.config
    prompt = resolve_rewrite(config.prompt)
    tried = await attempts(ctx, task, propose(ctx, prompt, task), 1 + config.retries, config.n)
    tried, nll_reference = await scored(ctx, task, tried)
    chosen = choose(ctx, task, tried)
    for number in range(config.refine_rounds if chosen else 0):
        assert chosen is not None
        proposal = _proposal(ctx, prompt, task, chosen.thinking, chosen.answer, f"refine{number}")
        fresh, _ = await scored(ctx, task, await attempts(ctx, task, proposal, 1, config.n))
        tried += fresh
        best = choose(ctx, task, fresh)
        if best is None or best.nll is None or chosen.nll is None or best.nll >= chosen.nll:
            break
        chosen = best
    ended = outcome(ctx, task, tried, chosen, nll_reference)
    if chosen is None and config.on_failure == "steer":
        return await _steered(task, ctx, ended)
    if chosen is None and config.on_failure == "keep_original" and task.reference_ids:
        return await _original(task, ctx, ended)
    return ended


def propose(ctx: MethodContext, prompt: Prompt, task: Task) -> Proposal:
    """The message that shows the target a row with its foreign response."""
    return _proposal(ctx, prompt, task, task.example.thought, task.example.answer, "transform")


def _proposal(ctx: MethodContext, prompt: Prompt, task: Task, thought: str, answer: str, stage: str) -> Proposal:
    """The rewrite message for one row, and its harmless twin."""

    def message(request: str, thought: str, answer: str) -> str:
        whole = ctx.tokens.thinking.shown(thought, answer) if thought else answer
        return prompt.render({"prompt": request, "thought": thought, "answer": answer, "reference": whole})

    harmless = message("x", "x" if thought else "", "x")
    shown = message(task.example.prompt, thought, answer)
    return Proposal(f"dgr/{prompt.label}", prompt, shown, harmless, thought, answer, stage)


async def _steered(task: Task, ctx: MethodContext, rewritten: Outcome) -> Outcome:
    """Let ThinkSafe answer a row whose rewrite failed.

    Such a row counts as accepted: the target wrote it, and it passed the same checks and guards. Its ``proposal``
    says how it came about.
    """
    steered = await thinksafe.answer(
        replace(task, expect=EXPECTED[task.label]), replace(ctx.others["thinksafe"], turn=ctx.turn)
    )
    return replace(
        steered,
        request_ids=rewritten.request_ids + steered.request_ids,
        candidate_reasons=rewritten.candidate_reasons + steered.candidate_reasons,
        candidate_proposals=rewritten.candidate_proposals + steered.candidate_proposals,
    )


async def _original(task: Task, ctx: MethodContext, rewritten: Outcome) -> Outcome:
    """Keep a sound original as a counted fallback.

    The paper's Eq. 3 keeps the original when refinement fails. Nothing unverified is trained on, so the original
    goes through the same guards and the same decision check.
    """
    example, reference = task.example, task.reference_ids or ()
    shown = GuardInput(example.asked, example.thought, example.answer, example.label or "")
    said = await judge(ctx.queue, ctx.guards, shown, Purpose("original", entry=task.entry))
    limit = min(ctx.sequence_len, ctx.max_positions or ctx.sequence_len)
    too_long = len(task.prompt_ids) + len(reference) > limit
    if said.reason or check_decision(example.answer, task.expect) or too_long:
        return rewritten
    return replace(
        rewritten,
        status="fallback",
        stage="original",
        thinking=example.thought,
        answer=example.answer,
        response_ids=reference,
        nll_accepted=rewritten.nll_reference,
        verdict=said.verdict,
    )


def _auto(safety: SafetyConfig) -> AutoPrompt | None:
    block = safety.dgr
    if block.prompt != AUTO:
        return None
    return AutoPrompt(
        REWRITE_PROMPTS, list, propose, block.probe_rows, lambda chosen: block.model_copy(update={"prompt": chosen})
    )


def _prompts(safety: SafetyConfig) -> Mapping[str, Prompt]:
    named = safety.dgr.prompt
    shown = REWRITE_PROMPTS.values() if named == AUTO else [resolve_rewrite(named)]
    return {f"dgr/{prompt.label}": prompt for prompt in shown}


# Guesses: a rewrite is about as long as its reference.
_EXPECTED = Expected(
    acceptance={"harmful": 0.7, "benign": 0.7, UNLABELLED: 0.7},
    tokens=lambda label, reference: float(max(400, reference)),
    rounds=lambda config: config.refine_rounds,
)

DGR = Method(
    "dgr",
    answer,
    reads_reference=True,
    config=lambda safety: safety.dgr,
    hands_to=lambda safety: "thinksafe" if safety.dgr.on_failure == "steer" else None,
    auto=_auto,
    prompts=_prompts,
    expected=_EXPECTED,
)
