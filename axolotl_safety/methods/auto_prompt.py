"""``auto``: try every named prompt on a few rows and keep the one that works best and distorts least.

The idea of choosing a steering prompt without training, by how often it turns the model's answers, is OPSA's teacher
flip rate (arXiv 2605.15239). The rule here is ours.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from axolotl_safety.config.prompts import Prompt
from axolotl_safety.data.sources import select_rows
from axolotl_safety.data.types import Task
from axolotl_safety.engines.queue import gather, score_request

from .base import AutoPrompt, MethodContext
from .candidates import accepted, attempts

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """How one prompt did.

    Attributes:
        rows: rows it was tried on, one completion each.
        accepted: how many were accepted by checks and guards.
        distortion: mean of (log q(y | prompt as asked) - log p(y | raw prompt)) over the accepted, nats per token at
            temperature 1; None if none was accepted. Up to a constant that all prompts share, its sum over a
            response is the KL divergence from the safe distribution at the raw prompt.
    """

    rows: int
    accepted: int
    distortion: float | None


async def best_prompt(
    ctx: MethodContext, auto: AutoPrompt, tasks: Sequence[Task]
) -> tuple[str, dict[str, dict[str, object]]]:
    """Try the named prompts.

    The completions are the first candidates that the chosen prompt would be asked for anyway, so the winner's are
    not made twice.

    Returns:
        The chosen name, and what was found for each.
    """
    rows = auto.rows(tasks)
    drawn = select_rows([task.example.row_id for task in rows], auto.count, ctx.seed)
    sample = [task for task in rows if task.example.row_id in drawn]
    found = await gather([_probe(ctx, auto, sample, prompt) for prompt in auto.named.values()])
    probes = dict(zip(auto.named, found, strict=True))
    chosen = rank(probes)
    report = {name: asdict(probe) for name, probe in probes.items()}
    if not ctx.queue.dry:
        LOG.info("prompt auto: %s, of %s", chosen, report)
    return chosen, report


async def _probe(ctx: MethodContext, auto: AutoPrompt, sample: Sequence[Task], prompt: Prompt) -> Probe:
    async def distortions(task: Task) -> list[float | None]:
        tried = await attempts(ctx, task, auto.propose(ctx, prompt, task), 1, 1, "probe")
        found: list[float | None] = []
        for candidate in accepted(tried):
            ids = candidate.token_ids
            logprob = await ctx.queue.logprob(score_request(ctx.fingerprint, task.prompt_ids, ids))
            found.append(None if logprob is None else (candidate.logprob - logprob) / len(ids))
        return found

    sound = [value for values in await gather([distortions(task) for task in sample]) for value in values]
    known = [value for value in sound if value is not None]
    return Probe(len(sample), len(sound), sum(known) / len(known) if known else None)


def rank(probes: Mapping[str, Probe]) -> str:
    """The name with the least distortion among those whose acceptance is within one standard error of the best."""

    def rate(probe: Probe) -> float:
        return probe.accepted / probe.rows if probe.rows else 0.0

    top = max(probes.values(), key=rate)
    slack = math.sqrt(rate(top) * (1 - rate(top)) / top.rows) if top.rows else 0.0
    near = [name for name, probe in probes.items() if rate(probe) >= rate(top) - slack - 1e-9]

    def cost(name: str) -> float:
        distortion = probes[name].distortion
        return math.inf if distortion is None else distortion

    return min(near, key=cost)
