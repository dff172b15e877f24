"""DGR: the target rewrites a foreign safety response into its own distribution (after arXiv 2602.02136).

Transform: the target sees the request and the reference and writes its own response. Checks and guards keep what is
sound. Refine: the accepted rewrite becomes the reference, as long as the NLL at the raw prompt still falls. The
paper's prompts and its failure test are unpublished; these are ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from axolotl_safety.config import DGRConfig, ThinkSafeConfig
from axolotl_safety.config.prompts import Prompt, resolve_rewrite
from axolotl_safety.data.types import Key, Outcome, Task
from axolotl_safety.guards.judge import ORIGINALS, Judged, judge
from axolotl_safety.util.errors import StageError

from . import thinksafe
from .candidates import Candidate, Proposal, Tried, Workshop, accepted, attempt
from .checks import check_decision
from .choice import choose, outcome, score


def run(shop: Workshop, config: DGRConfig, tasks: Sequence[Task]) -> list[Outcome]:
    """Rewrite every row.

    Returns:
        One outcome per task, in order.
    """
    prompt = resolve_rewrite(config.prompt)
    tried: Tried = defaultdict(list)
    proposals = {task.key: propose(shop, prompt, task) for task in tasks}
    pending = list(tasks)
    for number in range(1 + config.retries):
        indices = range(number * config.n, (number + 1) * config.n)
        title = "rewrites" if number == 0 else f"rewrites, retry {number}"
        attempt(shop, pending, proposals, indices, title, tried)
        pending = [task for task in pending if not accepted(tried[task.key])]
    asked = any(candidate.request_id for task in tasks for candidate in tried[task.key])
    if config.on_failure != "steer" and not asked:
        raise StageError(
            f"no rewrite prompt of {len(tasks)} rows could be asked: {tried[tasks[0].key][0].reason}. The model's "
            f"window is {shop.max_positions} tokens; shorten dgr.prompt or the rows, or use a model with a longer one."
        )
    score(shop, tasks, tried)
    chosen = {task.key: choose(shop, task, tried[task.key]) for task in tasks}
    falling = [task for task in tasks if chosen[task.key] is not None]
    for number in range(config.refine_rounds):
        falling = _refine(shop, prompt, config, falling, tried, chosen, number)
    originals = _judge_originals(shop, config, tasks, chosen)
    return [_outcome(shop, task, tried[task.key], chosen[task.key], originals.get(task.key)) for task in tasks]


def steer(
    shop: Workshop, config: ThinkSafeConfig, tasks: Sequence[Task], rewritten: Sequence[Outcome]
) -> list[Outcome]:
    """Let ThinkSafe answer the rows whose rewrite failed.

    Such a row counts as accepted: the target wrote it, and it passed the same checks and guards. Its ``proposal``
    says how it came about.

    Args:
        shop: as ThinkSafe's own rows get it.
        config: the ``thinksafe`` block.
        tasks: the rows, in order.
        rewritten: what became of their rewrites.

    Returns:
        One outcome per task, in order.
    """
    failed = {
        task.key: replace(task, expect="answer" if task.label == "benign" else "refuse")
        for task, outcome in zip(tasks, rewritten, strict=True)
        if outcome.status == "rejected"
    }
    answered = {item.key: item for item in thinksafe.run(shop, config, list(failed.values()))}

    def merged(before: Outcome) -> Outcome:
        after = answered.get(before.key)
        if after is None:
            return before
        return replace(
            after,
            request_ids=before.request_ids + after.request_ids,
            candidate_reasons=before.candidate_reasons + after.candidate_reasons,
            candidate_proposals=before.candidate_proposals + after.candidate_proposals,
        )

    return [merged(outcome) for outcome in rewritten]


def propose(shop: Workshop, prompt: Prompt, task: Task) -> Proposal:
    """The message that shows the target a row with its foreign response."""
    return _proposal(shop, prompt, task, task.example.thought, task.example.answer, "transform")


def _proposal(shop: Workshop, prompt: Prompt, task: Task, thought: str, answer: str, stage: str) -> Proposal:
    """The rewrite message for one row, and its harmless twin."""

    def message(request: str, thought: str, answer: str) -> str:
        whole = shop.tokens.thinking.wrap(thought, answer) if thought else answer
        return prompt.render({"prompt": request, "thought": thought, "answer": answer, "reference": whole})

    harmless = message("x", "x" if thought else "", "x")
    shown = message(task.example.prompt, thought, answer)
    return Proposal(f"dgr/{prompt.label}", prompt, shown, harmless, thought, answer, stage)


def _refine(
    shop: Workshop,
    prompt: Prompt,
    config: DGRConfig,
    tasks: Sequence[Task],
    tried: Tried,
    chosen: dict[Key, Candidate | None],
    number: int,
) -> list[Task]:
    """One round with the accepted rewrite as the reference; the rows whose NLL still fell."""
    now = {task.key: candidate for task in tasks if (candidate := chosen[task.key]) is not None}
    rewritten = [task for task in tasks if task.key in now]
    proposals = {
        task.key: _proposal(shop, prompt, task, now[task.key].thinking, now[task.key].answer, f"refine{number}")
        for task in rewritten
    }
    fresh: Tried = defaultdict(list)
    attempt(shop, rewritten, proposals, range(config.n), f"refine round {number + 1}", fresh)
    score(shop, rewritten, fresh)
    fell: list[Task] = []
    for task in rewritten:
        tried[task.key].extend(fresh[task.key])
        best, before = choose(shop, task, fresh[task.key]), now[task.key]
        if best is not None and best.nll is not None and before.nll is not None and best.nll < before.nll:
            chosen[task.key] = best
            fell.append(task)
    return fell


def _judge_originals(
    shop: Workshop, config: DGRConfig, tasks: Sequence[Task], chosen: dict[Key, Candidate | None]
) -> dict[Key, tuple[str, str]]:
    """Reason (empty if sound) and verdict of each original that stands in for a failed rewrite.

    The paper's Eq. 3 keeps the original when refinement fails. Nothing unverified is trained on, so the original
    goes through the same guards and the same decision check.
    """
    if config.on_failure != "keep_original":
        return {}
    failed = [task for task in tasks if chosen[task.key] is None and task.reference_ids]
    items = {
        task.key: Judged(task.example.asked, task.example.thought, task.example.answer, task.example.label or "")
        for task in failed
    }
    rulings = judge(shop.queue, shop.guards, items, ORIGINALS)
    found = {}
    for task in failed:
        reason = rulings[task.key].reason or check_decision(task.example.answer, task.expect)
        limit = min(shop.sequence_len, shop.max_positions or shop.sequence_len)
        if not reason and len(task.prompt_ids) + len(task.reference_ids or ()) > limit:
            reason = "too_long"
        found[task.key] = (reason, rulings[task.key].verdict)
    return found


def _outcome(
    shop: Workshop,
    task: Task,
    candidates: list[Candidate],
    chosen: Candidate | None,
    original: tuple[str, str] | None,
) -> Outcome:
    """The chosen rewrite, else a sound original as a counted fallback, else a reject."""
    ended = outcome(shop, task, candidates, chosen)
    if chosen is not None or original is None or original[0]:
        return ended
    return replace(
        ended,
        status="fallback",
        stage="original",
        thinking=task.example.thought,
        answer=task.example.answer,
        response_ids=task.reference_ids or (),
        nll_accepted=ended.nll_reference,
        verdict=original[1],
    )
