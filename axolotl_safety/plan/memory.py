"""GPU memory of the engine: weights, overhead, cached keys and values, and how many sequences run at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..sizes import ModelSize

# What a process holds that is neither weights nor cache. From logs of vLLM at start ("non_torch_memory",
# "graph capturing took"): half a gigabyte each; they vary with driver and version.
CONTEXT_BYTES = 0.5e9
_GRAPH_BYTES = 0.5e9
_BATCHED_TOKENS = 8192  # vLLM's default max_num_batched_tokens for offline use
_MAX_NUM_SEQS = 256  # and its default max_num_seqs
_LOGIT_BYTES = 12  # per logit when sampling: bfloat16, and float32 twice (sorted for top-p)
# A guard reads one response at a time per slot; it needs little, and the target gets the rest.
_GUARD_SHARE = 0.15
_USABLE = 0.95  # of a card, for a process that does not limit itself
_GROWTH = 1.5  # the transformers worker's cache grows by half, and for a moment both copies exist


@dataclass(frozen=True)
class Resident:
    """One model of the engine.

    Attributes:
        name: ``target`` or ``guard0``.
        size: its shape.
        dtype: of what is not quantised.
        quantization: as the engine loads it.
        longest: the longest sequence that it is asked, in tokens.
        usual: tokens that a sequence under way holds on average.
    """

    name: str
    size: ModelSize
    dtype: str
    quantization: str | None
    longest: int
    usual: int

    @property
    def weight_bytes(self) -> int:
        """Of the weights as loaded."""
        return self.size.weight_bytes(self.dtype, self.quantization)

    @property
    def kv_bytes(self) -> int:
        """Of one token's keys and values; quantising the weights does not shrink them."""
        return self.size.kv_bytes_per_token(self.dtype)


@dataclass(frozen=True)
class Seat:
    """What one model gets on each card of its group.

    Attributes:
        cache_bytes: for keys and values.
        tokens: that these hold.
        slots: sequences under way at once; 0 if not even one of the longest fits.
    """

    name: str
    weight_bytes: int
    overhead_bytes: int
    cache_bytes: int
    tokens: int
    slots: int
    longest: int


@dataclass(frozen=True)
class EngineMemory:
    """Where the memory of one card goes while the engine runs.

    Attributes:
        card_bytes: all of it.
        capacity_bytes: what the engine may use.
        seats: one per model, the target first.
        parallel: cards that hold one copy of the models together.
    """

    card_bytes: int
    capacity_bytes: int
    seats: tuple[Seat, ...]
    parallel: int

    @property
    def fits(self) -> bool:
        """Whether every model can run its longest sequence."""
        return all(seat.slots > 0 for seat in self.seats)


def vllm_memory(
    models: Sequence[Resident],
    card_bytes: int,
    utilization: float = 0.9,
    max_num_seqs: int | None = None,
    eager: bool = False,
    parallel: int = 1,
) -> EngineMemory:
    """Share a card as vLLM does: what ``gpu_memory_utilization`` leaves after weights and overhead is cache.

    Args:
        models: the target first, then the guards, which share its card.
        card_bytes: memory of one card.
        utilization: share of it for all models together.
        max_num_seqs: limit on slots.
        eager: no CUDA graphs.
        parallel: tensor-parallel cards per copy of the models.
    """
    limit = max_num_seqs or _MAX_NUM_SEQS
    capacity = int(utilization * card_bytes)
    weights = [model.weight_bytes // parallel for model in models]
    overheads = [_overhead(model.size, limit, eager) for model in models]
    room = max(0, capacity - sum(weights) - sum(overheads))
    kv = [-(-model.kv_bytes // parallel) for model in models]
    wanted = [max(model.longest * one, _GUARD_SHARE * room) for model, one in zip(models, kv, strict=True)]
    guards = int(sum(wanted[1:]))
    seats = []
    for index, model in enumerate(models):
        cache = max(0, room - guards) if index == 0 else int(wanted[index])
        tokens = cache // kv[index] if room else 0
        slots = min(limit, tokens // max(1, model.usual)) if tokens >= model.longest else 0
        seats.append(Seat(model.name, weights[index], overheads[index], cache, tokens, slots, model.longest))
    return EngineMemory(card_bytes, capacity, tuple(seats), parallel)


def transformers_memory(models: Sequence[Resident], card_bytes: int, batch_size: int) -> EngineMemory:
    """The transformers worker: up to ``batch_size`` sequences, each with room for the longest."""
    capacity = int(_USABLE * card_bytes)
    weights = [model.weight_bytes for model in models]
    room = max(0, capacity - sum(weights) - int(CONTEXT_BYTES))
    seats = []
    for index, model in enumerate(models):
        overhead = batch_size * model.size.vocabulary * _LOGIT_BYTES
        cache = max(0, room - overhead)  # the models take turns
        tokens = int(cache / _GROWTH) // max(1, model.kv_bytes)
        slots = min(batch_size, tokens // max(1, model.longest))
        context = int(CONTEXT_BYTES) if index == 0 else 0
        seats.append(Seat(model.name, weights[index], overhead + context, cache, tokens, slots, model.longest))
    return EngineMemory(card_bytes, capacity, tuple(seats), 1)


def _overhead(size: ModelSize, slots: int, eager: bool) -> int:
    """Context, graphs, and the peak of one forward pass, which vLLM measures before it sizes the cache.

    The pass holds, per batched token, the values between the matrices of one layer that live at once (in and out of
    the widest two, the residual stream) and, per slot, the logits being sampled.
    """
    widest = max((matrix.outputs for matrix in size.matrices), default=4 * size.hidden)
    passing = _BATCHED_TOKENS * (3 * widest + 3 * size.hidden) * 2
    return int(CONTEXT_BYTES + (0 if eager else _GRAPH_BYTES) + passing + slots * size.vocabulary * _LOGIT_BYTES)
