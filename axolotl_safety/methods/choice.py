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
from axolotl_safety.engines.base import ScoreRequest
from axolotl_safety.engines.queue import content_id, gather, score_request

from .base import MethodContext
from .candidates import Candidate, accepted

# Weights flattened to a tenth of their exponent say next to nothing: then the first candidate is as good a choice.
_LEAST_TEMPERING = 0.1


def choose(ctx: MethodContext, task: Task, candidates: Sequence[Candidate]) -> Candidate | None:
    """One of the accepted candidates of one proposal.

    ``first`` is the lowest index, never the first to arrive. A candidate that could not be scored is chosen only if
    none could.
    """
    sound = accepted(candidates)
    if not sound:
        return None
    if ctx.choice == "lowest_nll":
        known = [candidate for candidate in sound if candidate.nll is not None]
        return min(known, key=lambda candidate: candidate.nll or 0.0) if known else sound[0]
    if ctx.choice == "resample":
        return _resample(ctx, task, [item for item in sound if item.log_weight is not None] or sound)
    return sound[0]


def _resample(ctx: MethodContext, task: Task, sound: list[Candidate]) -> Candidate:
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
    rng = random.Random(content_id("resample", ctx.seed, task.example.row_id))
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


async def scored(
    ctx: MethodContext, task: Task, candidates: Sequence[Candidate]
) -> tuple[list[Candidate], float | None]:
    """The accepted candidates with their NLL at the raw prompt, and with importance weights if they are used.

    Returns:
        The candidates in their order, and the NLL of the reference in nats per token, None without one.
    """
    marks = await gather([_scored(ctx, task, one) for one in candidates if not one.reason] + [_reference(ctx, task)])
    *sound, reference = marks
    left = iter(sound)
    return [candidate if candidate.reason else next(left) for candidate in candidates], reference


async def _reference(ctx: MethodContext, task: Task) -> float | None:
    ids = task.reference_ids
    return await ctx.queue.nll(_score(ctx, task.prompt_ids, ids)) if ids else None


async def _scored(ctx: MethodContext, task: Task, candidate: Candidate) -> Candidate:
    raw, ids = task.prompt_ids, candidate.token_ids
    if ctx.choice != "resample" or candidate.asked_ids == raw:
        log_weight = 0.0 if candidate.asked_ids == raw else None
        return replace(candidate, nll=await ctx.queue.nll(_score(ctx, raw, ids)), log_weight=log_weight)
    warmth = ctx.sampling.temperature
    pair = (_score(ctx, raw, ids, warmth), _score(ctx, candidate.asked_ids, ids, warmth))
    nll, target, proposal = await gather(
        [ctx.queue.nll(_score(ctx, raw, ids)), *(ctx.queue.logprob(request) for request in pair)]
    )
    known = target is not None and proposal is not None
    return replace(candidate, nll=nll, log_weight=target - proposal if known else None)


def _score(
    ctx: MethodContext, prompt_ids: tuple[int, ...], response_ids: tuple[int, ...], temperature: float = 1.0
) -> ScoreRequest:
    return score_request(ctx.fingerprint, prompt_ids, response_ids, temperature, ctx.turn)


def outcome(
    ctx: MethodContext,
    task: Task,
    candidates: Sequence[Candidate],
    chosen: Candidate | None,
    nll_reference: float | None,
) -> Outcome:
    """Accepted with the chosen candidate, else rejected for the last candidate's reason.

    Args:
        ctx: what the method ran with.
        task: the row.
        candidates: everything that was tried for it, in order; at least one.
        chosen: what to train on, None if nothing was accepted.
        nll_reference: of the foreign response at the raw prompt, None if there is none or it was not scored.
    """
    asked = [candidate for candidate in candidates if candidate.request_id]
    shown = chosen or candidates[-1]
    return Outcome.of(
        task,
        status="accepted" if chosen else "rejected",
        reason=shown.reason,
        thinking=shown.thinking,
        answer=shown.answer,
        response_ids=chosen.token_ids if chosen else (),
        nll_reference=nll_reference,
        nll_accepted=chosen.nll if chosen else None,
        guard=", ".join(guard.name for guard in ctx.guards),
        verdict=shown.verdict,
        proposal=shown.proposal,
        stage=shown.stage,
        ess=shown.ess,
        tempering=shown.tempering,
        request_ids=tuple(candidate.request_id for candidate in asked),
        candidate_reasons=tuple(candidate.reason for candidate in asked),
        candidate_proposals=tuple(candidate.proposal for candidate in asked),
    )
