"""Which accepted candidate is trained on: the first, the likeliest at the raw prompt, or one drawn by weight.

ThinkSafe's Lemma 4.1 (arXiv 2601.23143) makes the model's own distribution at the raw prompt, restricted to safe
responses, the target p that costs least. Steering and rewriting are proposals q that reach safe responses more often
but distort. ``resample`` corrects for that with self-normalised importance weights p / q.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from axolotl_safety.data.types import Outcome, Task
from axolotl_safety.engines.queue import content_id, score_request

from .candidates import Candidate, Tried, Workshop, accepted

# Weights flattened to a tenth of their exponent say next to nothing: then the first candidate is as good a choice.
_LEAST_TEMPERING = 0.1


def choose(shop: Workshop, task: Task, candidates: Sequence[Candidate]) -> Candidate | None:
    """One of the accepted candidates of one proposal.

    ``first`` is the lowest index, never the first to arrive. A candidate that could not be scored is chosen only if
    none could.
    """
    sound = accepted(candidates)
    if not sound:
        return None
    if shop.choice == "lowest_nll":
        scored = [candidate for candidate in sound if candidate.nll is not None]
        return min(scored, key=lambda candidate: candidate.nll or 0.0) if scored else sound[0]
    if shop.choice == "resample":
        return _resample(shop, task, [item for item in sound if item.log_weight is not None] or sound)
    return sound[0]


def _resample(shop: Workshop, task: Task, sound: list[Candidate]) -> Candidate:
    """Draw by tempered weight; the draw depends on seed and row alone."""
    logs = [candidate.log_weight for candidate in sound]
    known = [value for value in logs if value is not None and math.isfinite(value)]
    # Asked as they are, they are draws from p already, and one is as good as another.
    unsteered = all(candidate.asked_ids == task.prompt_ids for candidate in sound)
    if unsteered or len(sound) < 2 or len(known) < len(sound):
        return sound[0]
    exponent = temper(known)
    ess = effective_sample_size(known)
    if exponent < _LEAST_TEMPERING:
        return replace(sound[0], ess=ess, tempering=0.0)
    rng = random.Random(content_id("resample", shop.seed, task.example.row_id))
    (drawn,) = rng.choices(sound, weights=_weights(known, exponent))
    return replace(drawn, ess=ess, tempering=exponent)


def _weights(log_weights: Sequence[float], exponent: float) -> list[float]:
    """Normalised w ** exponent."""
    top = max(log_weights)
    raw = [math.exp(exponent * (value - top)) for value in log_weights]
    total = sum(raw)
    return [value / total for value in raw]


def effective_sample_size(log_weights: Sequence[float], exponent: float = 1.0) -> float:
    """Kish's effective sample size of w ** exponent: 1 if one weight has it all, n if all are equal."""
    return 1 / sum(weight * weight for weight in _weights(log_weights, exponent))


def temper(log_weights: Sequence[float]) -> float:
    """The largest exponent in [0, 1] that leaves an effective sample size of at least half the candidates.

    Log-weights of long responses differ by many nats, and the draw would always fall on the shortest or blandest one.
    The effective sample size falls as the exponent grows, so bisection finds it.
    """
    enough = len(log_weights) / 2
    if effective_sample_size(log_weights) >= enough:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if effective_sample_size(log_weights, middle) >= enough:
            low = middle
        else:
            high = middle
    return low


def score(shop: Workshop, tasks: Sequence[Task], tried: Tried) -> None:
    """NLL of every accepted candidate and of the reference at the raw prompt; importance weights if they are used."""
    raw, weighing = {}, {}
    work = [score_request(shop, task.prompt_ids, task.reference_ids) for task in tasks if task.reference_ids]
    for task in tasks:
        for candidate in accepted(tried[task.key]):
            key = (task.prompt_ids, candidate.token_ids)
            raw[key] = score_request(shop, *key)
            work.append(raw[key])
            if shop.choice == "resample" and candidate.asked_ids != task.prompt_ids:
                target = score_request(shop, *key, shop.sampling.temperature)
                proposal = score_request(shop, candidate.asked_ids, candidate.token_ids, shop.sampling.temperature)
                weighing[(candidate.request_id, *key)] = (target, proposal)
                work += [target, proposal]
    shop.queue.finish(work, "score", "NLL under the frozen target")

    def scored(task: Task, candidate: Candidate) -> Candidate:
        if candidate.reason:
            return candidate
        key = (task.prompt_ids, candidate.token_ids)
        log_weight = 0.0 if candidate.asked_ids == task.prompt_ids else None
        if pair := weighing.get((candidate.request_id, *key)):
            target, proposal = (shop.queue.logprob(request) for request in pair)
            log_weight = None if target is None or proposal is None else target - proposal
        return replace(candidate, nll=shop.queue.nll(raw[key]), log_weight=log_weight)

    for task in tasks:
        tried[task.key] = [scored(task, candidate) for candidate in tried[task.key]]


def outcome(shop: Workshop, task: Task, candidates: Sequence[Candidate], chosen: Candidate | None) -> Outcome:
    """Accepted with the chosen candidate, else rejected for the last candidate's reason.

    Args:
        shop: what the method ran with.
        task: the row.
        candidates: everything that was tried for it, in order; at least one.
        chosen: what to train on, None if nothing was accepted.
    """
    asked = [candidate for candidate in candidates if candidate.request_id]
    shown = chosen or candidates[-1]
    reference = task.reference_ids
    return Outcome.of(
        task,
        status="accepted" if chosen else "rejected",
        reason=shown.reason,
        thinking=shown.thinking,
        answer=shown.answer,
        response_ids=chosen.token_ids if chosen else (),
        nll_reference=shop.queue.nll(score_request(shop, task.prompt_ids, reference)) if reference else None,
        nll_accepted=chosen.nll if chosen else None,
        guard=", ".join(guard.name for guard in shop.guards),
        verdict=shown.verdict,
        proposal=shown.proposal,
        stage=shown.stage,
        ess=shown.ess,
        tempering=shown.tempering,
        request_ids=tuple(candidate.request_id for candidate in asked),
        candidate_reasons=tuple(candidate.reason for candidate in asked),
        candidate_proposals=tuple(candidate.proposal for candidate in asked),
    )
