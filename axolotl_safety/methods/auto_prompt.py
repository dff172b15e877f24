"""``auto``: try every named prompt on a few rows and keep the one that works best and distorts least.

The idea of choosing a steering prompt without training, by how often it turns the model's answers, is OPSA's teacher
flip rate (arXiv 2605.15239). The rule here is ours.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from axolotl_safety.config.prompts import Prompt
from axolotl_safety.data.sources import select_rows
from axolotl_safety.data.types import Task
from axolotl_safety.engines.queue import score_request

from .candidates import Proposal, Tried, Workshop, accepted, attempt

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


def best_prompt(
    shop: Workshop,
    tasks: Sequence[Task],
    named: Mapping[str, Prompt],
    propose: Callable[[Prompt, Task], Proposal],
    rows: int,
) -> tuple[str, dict[str, dict[str, object]]]:
    """Probe the named prompts.

    The completions are the first candidates that the chosen prompt would be asked for anyway, so the winner's are
    not made twice.

    Returns:
        The chosen name, and what was found for each.
    """
    drawn = select_rows([task.example.row_id for task in tasks], rows, shop.seed)
    sample = [task for task in tasks if task.example.row_id in drawn]
    probes = {name: _probe(shop, sample, prompt, propose, name) for name, prompt in named.items()}
    chosen = rank(probes)
    report = {name: asdict(probe) for name, probe in probes.items()}
    if not shop.queue.dry:
        LOG.info("prompt auto: %s, of %s", chosen, report)
    return chosen, report


def _probe(
    shop: Workshop, sample: Sequence[Task], prompt: Prompt, propose: Callable[[Prompt, Task], Proposal], name: str
) -> Probe:
    tried: Tried = defaultdict(list)
    attempt(shop, sample, {task.key: propose(prompt, task) for task in sample}, range(1), f"probing {name}", tried)
    sound = [(task, candidate) for task in sample for candidate in accepted(tried[task.key])]
    raw = [score_request(shop, task.prompt_ids, candidate.token_ids) for task, candidate in sound]
    shop.queue.finish(raw, "score", "NLL under the frozen target")
    known = [
        (candidate.logprob - logprob) / len(candidate.token_ids)
        for (_, candidate), request in zip(sound, raw, strict=True)
        if (logprob := shop.queue.logprob(request)) is not None
    ]
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
