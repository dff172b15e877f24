"""ThinkSafe (arXiv 2601.23143): the target answers harmful prompts under steering and benign ones as they are.

Training sees the raw prompt. A ladder of prompts is climbed rung by rung and stops at the first rung that yields an
accepted response: with ``none`` first, only what unsteered sampling did not yield is steered (an accepted unsteered
sample is a draw from the KL-optimal target of the paper's Lemma 4.1, up to temperature and truncation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from axolotl_safety.config import AUTO, SafetyConfig, ThinkSafeConfig
from axolotl_safety.config.prompts import STEERING_PROMPTS, Prompt, resolve_steering
from axolotl_safety.data.types import UNLABELLED, Outcome, Task

from .base import AutoPrompt, Expected, Method, MethodContext
from .candidates import Candidate, Proposal, accepted, attempts
from .choice import choose, outcome, scored


async def answer(task: Task, ctx: MethodContext) -> Outcome:
    """Answer one row: rung by rung, each asked, checked and judged, until one yields a sound response."""
    config: ThinkSafeConfig = ctx.config
    # Who does not know that a prompt is harmful must not steer towards a refusal.
    rungs = map(resolve_steering, config.ladder) if task.label == "harmful" else [STEERING_PROMPTS["none"]]
    tried: list[Candidate] = []
    for rung in rungs:
        reached = len(tried)
        tried += await attempts(ctx, task, propose(ctx, rung, task), config.attempts, config.n)
        if accepted(tried):
            break
    tried, nll_reference = await scored(ctx, task, tried)
    return outcome(ctx, task, tried, choose(ctx, task, tried[reached:]), nll_reference)


def propose(ctx: MethodContext, rung: Prompt, task: Task) -> Proposal:
    """The message that the target sees for one row on one rung."""
    message = rung.render({"prompt": task.example.prompt})
    harmless = rung.render({"prompt": "x"})
    return Proposal(f"thinksafe/{rung.label}", rung, message, harmless, "", "", f"thinksafe/{rung.sha256[:16]}")


def _auto(safety: SafetyConfig) -> AutoPrompt | None:
    block = safety.thinksafe
    if AUTO not in block.ladder:
        return None

    def harmful(tasks: Sequence[Task]) -> list[Task]:
        return [replace(task, expect="refuse") for task in tasks if task.label == "harmful"]

    def settle(chosen: str) -> ThinkSafeConfig:
        ladder = tuple(chosen if rung == AUTO else rung for rung in block.ladder)
        return block.model_copy(update={"ladder": ladder})

    named = {name: prompt for name, prompt in STEERING_PROMPTS.items() if name not in ("none", *block.ladder)}
    return AutoPrompt(named, harmful, propose, block.probe_rows, settle)


def _prompts(safety: SafetyConfig) -> Mapping[str, Prompt]:
    ladder = safety.thinksafe.ladder
    shown = STEERING_PROMPTS.values() if AUTO in ladder else map(resolve_steering, ladder)
    return {f"thinksafe/{prompt.label}": prompt for prompt in (STEERING_PROMPTS["none"], *shown)}


# The paper (Figs. 9 and 10) kept 87 to 99.8 % of the steered and 89 to 99 % of the benign responses by its guard alone;
# our checks ask for more. Unsteered acceptance and lengths are guesses for 1.5B to 8B models on short questions.
_EXPECTED = Expected(
    acceptance={"harmful": 0.85, "benign": 0.9, UNLABELLED: 0.7},
    tokens=lambda label, reference: 500 if label == "harmful" else 1200,
    proposals={f"thinksafe/{STEERING_PROMPTS['none'].label}": 0.4},
)

THINKSAFE = Method(
    "thinksafe",
    answer,
    reads_reference=False,
    config=lambda safety: safety.thinksafe,
    auto=_auto,
    prompts=_prompts,
    expected=_EXPECTED,
)
