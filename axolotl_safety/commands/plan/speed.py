"""How long generation takes: every step reads weights and cache once, and cannot be faster than the memory.

Decoding is bound by bandwidth (Pope et al., arXiv 2211.05102, sec. 2): one step of B sequences takes
``(weights + B * context * kv) / (efficiency * bandwidth) + overhead``, or the arithmetic's time where that is longer.
Prefill and scoring are bound by arithmetic: 2 FLOPs per parameter and token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .cards import Card
from .memory import LoadedModel, ModelMemory


@dataclass(frozen=True)
class Efficiency:
    """What share of a card's data sheet is reached, and what a step costs besides.

    Attributes:
        bandwidth: share of the memory's bandwidth.
        flops: share of the arithmetic.
        step_seconds: scheduling, launching and sampling, per step.
        length: factor on the expected lengths, where they are a guess.
    """

    bandwidth: float
    flops: float
    step_seconds: float
    length: float = 1.0


# Middle: fits the published 4090 figures with 300 requests of 100 + 600 tokens (databasemart: R1-Distill-Llama-8B 2.4,
# Qwen-7B 3.6, Qwen-1.5B 8.3 thousand tokens per second) within a quarter. The two others bracket what other versions,
# drivers and hosts make of it. Lengths are within 1.5 of their guess in most runs.
RANGE = {
    "fast": Efficiency(0.8, 0.6, 0.005, 1 / 1.5),
    "middle": Efficiency(0.6, 0.4, 0.010),
    "slow": Efficiency(0.4, 0.25, 0.020, 1.5),
}
# The transformers worker launches every kernel of a step from Python: about 1 ms per layer instead of CUDA graphs.
_EAGER_LAYER_SECONDS = 0.001
# bitsandbytes unpacks a matrix into 16 bits before it multiplies a batch: written once and read once.
_UNPACKED_PASSES = 2


@dataclass(frozen=True)
class Phase:
    """Requests that one model answers in one go.

    Attributes:
        title: as the progress line says.
        model: ``target`` or ``guard0``.
        requests: expected number.
        prompt_tokens: read, in all; for scores the response is part of it.
        new_tokens: written, in all.
        longest: the longest completion allowed, in tokens.
        guessed: whether the lengths are a guess.
    """

    title: str
    model: str
    requests: float
    prompt_tokens: float
    new_tokens: float
    longest: int
    guessed: bool = True


def step_seconds(
    model: LoadedModel, card: Card, batch: float, context: float, efficiency: Efficiency, eager: bool = False
) -> float:
    """Seconds of one decoding step of ``batch`` sequences that hold ``context`` tokens each.

    Args:
        model: whose weights are read.
        card: with its figures; a tensor-parallel group counts as one card of their sum.
        batch: sequences.
        context: tokens each.
        efficiency: as assumed.
        eager: kernels are launched from Python.
    """
    read = model.weight_bytes + batch * context * model.kv_bytes
    if model.quantization == "bitsandbytes":
        read += _UNPACKED_PASSES * 2 * model.size.linear
    memory = read / (efficiency.bandwidth * (card.bandwidth or math.nan))
    arithmetic = 2 * model.size.parameters * batch / (efficiency.flops * (card.flops or math.nan))
    launches = _EAGER_LAYER_SECONDS * model.size.layers if eager else 0.0
    return max(memory, arithmetic) + max(efficiency.step_seconds, launches)


def tokens_per_second(
    model: LoadedModel,
    seat: ModelMemory,
    card: Card,
    efficiency: Efficiency,
    eager: bool = False,
    slots: float | None = None,
) -> float:
    """Tokens written per second with all slots busy."""
    batch = max(1.0, min(seat.slots, slots or seat.slots))
    return batch / step_seconds(model, card, batch, model.usual, efficiency, eager)


def phase_seconds(
    phase: Phase, model: LoadedModel, seat: ModelMemory, card: Card, efficiency: Efficiency, eager: bool = False
) -> float:
    """Seconds of one phase on one copy of the engine: prefill, and decoding with busy slots."""
    if not phase.requests:
        return 0.0
    stretch = efficiency.length if phase.guessed else 1.0
    written = phase.new_tokens * stretch
    read = phase.prompt_tokens * (1.0 if phase.new_tokens else stretch)
    prefill = 2 * model.size.parameters * read / (efficiency.flops * (card.flops or math.nan))
    if not written:
        return prefill
    slots = min(seat.slots, phase.requests)
    return prefill + written / tokens_per_second(model, seat, card, efficiency, eager, slots)


def drain_seconds(
    phases: Sequence[Phase], models: Mapping[str, LoadedModel], card: Card, efficiency: Efficiency, eager: bool = False
) -> float:
    """When nothing waits any more, the slots empty one by one; the last completion is a long one. Once for all phases,
    since no phase waits for another to end."""
    longest = 0.0
    for phase in phases:
        if phase.requests and phase.new_tokens:
            mean = phase.new_tokens * (efficiency.length if phase.guessed else 1.0) / phase.requests
            tail = max(0.0, min(phase.longest, 3 * mean) - mean)
            longest = max(longest, tail * step_seconds(models[phase.model], card, 1, mean, efficiency, eager))
    return longest


def combined(card: Card, count: int) -> Card:
    """A tensor-parallel group as one card. Exchange between cards costs about a fifth of what they add."""
    if count == 1 or card.bandwidth is None or card.flops is None:
        return card
    factor = 1 + 0.8 * (count - 1)
    return Card(card.name, card.memory_bytes * count, card.bandwidth * factor, card.flops * factor, card.capability)


def total_seconds(
    phases: Sequence[Phase],
    models: dict[str, LoadedModel],
    seats: dict[str, ModelMemory],
    card: Card,
    copies: int = 1,
    eager: bool = False,
) -> dict[str, float] | None:
    """Seconds by assumption (``fast``, ``middle``, ``slow``); None for a card without figures."""
    if card.bandwidth is None or card.flops is None or any(seat.slots < 1 for seat in seats.values()):
        return None

    def seconds(phase: Phase, efficiency: Efficiency) -> float:
        share = Phase(
            phase.title,
            phase.model,
            phase.requests / copies,
            phase.prompt_tokens / copies,
            phase.new_tokens / copies,
            phase.longest,
            phase.guessed,
        )
        return phase_seconds(share, models[phase.model], seats[phase.model], card, efficiency, eager)

    known = [phase for phase in phases if phase.model in models]
    return {
        name: sum(seconds(phase, efficiency) for phase in known) + drain_seconds(known, models, card, efficiency, eager)
        for name, efficiency in RANGE.items()
    }
