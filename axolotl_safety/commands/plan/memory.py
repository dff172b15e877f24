"""GPU memory of the engine: weights, overhead, cached keys and values, and how many sequences run at once.

Who gets what of a card is the engine's own rule (``engines.share``); what vLLM makes of it is estimated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from axolotl_safety.engines.gpu.share import Need, Share, divide
from axolotl_safety.engines.gpu.sizes import ModelSize
from axolotl_safety.engines.gpu.vllm_settings import DEFAULT_MAX_NUM_SEQS
from axolotl_safety.util.errors import ConfigError

# What a process holds that is neither weights nor cache. From logs of vLLM at start ("non_torch_memory",
# "graph capturing took"): half a gigabyte each; they vary with driver and version.
CONTEXT_BYTES = 0.5e9
_GRAPH_BYTES = 0.5e9
_BATCHED_TOKENS = 8192  # vLLM's default max_num_batched_tokens for offline use
_LOGIT_BYTES = 12  # per logit when sampling: bfloat16, and float32 twice (sorted for top-p)
_USABLE = 0.95  # of a card, for a process that does not limit itself
_GROWTH = 1.5  # the transformers worker's cache grows by half, and for a moment both copies exist


@dataclass(frozen=True)
class LoadedModel:
    """One model of the engine.

    Attributes:
        name: ``target`` or ``guard0``.
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

    @property
    def need(self) -> Need:
        """What the engine divides a card by."""
        return Need(self.weight_bytes, self.kv_bytes, self.size.vocabulary, self.size.heads, self.longest)


@dataclass(frozen=True)
class ModelMemory:
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
        capacity_bytes: what the engine may use.
        seats: one per model, the target first.
        parallel: cards that hold one copy of the models together.
        in_turn: each model is loaded only while no other is.
    """

    card_bytes: int
    capacity_bytes: int
    seats: tuple[ModelMemory, ...]
    parallel: int
    in_turn: bool = False

    @property
    def fits(self) -> bool:
        """Whether every model can run its longest sequence."""
        return all(seat.slots > 0 for seat in self.seats)


def vllm_memory(
    models: Sequence[LoadedModel],
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
    limit = max_num_seqs or DEFAULT_MAX_NUM_SEQS
    capacity = int(utilization * card_bytes)
    needs = {model.name: model.need for model in models}
    try:
        shares = divide(needs, card_bytes, card_bytes, utilization, limit, parallel)
    except ConfigError:  # one does not fit even alone; the engine would not start
        shares = None
    given = shares or {model.name: Share(capacity, True) for model in models}
    seats = []
    for model in models:
        weights, overhead = model.weight_bytes // parallel, _overhead(model.size, limit, eager)
        cache = max(0, given[model.name].gpu_bytes - weights - overhead)
        tokens = cache // -(-model.kv_bytes // parallel)
        slots = min(limit, tokens // max(1, model.usual)) if shares and tokens >= model.longest else 0
        seats.append(ModelMemory(model.name, weights, overhead, cache, tokens, slots, model.longest))
    in_turn = len(models) > 1 and all(share.alone for share in given.values())
    return EngineMemory(card_bytes, capacity, tuple(seats), parallel, in_turn)


def transformers_memory(models: Sequence[LoadedModel], card_bytes: int, batch_size: int) -> EngineMemory:
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
        seats.append(ModelMemory(model.name, weights[index], overhead + context, cache, tokens, slots, model.longest))
    return EngineMemory(card_bytes, capacity, tuple(seats), 1)


def _overhead(size: ModelSize, slots: int, eager: bool) -> int:
    """Context, graphs, and the peak of one forward pass, which vLLM measures before it sizes the cache.

    The pass holds, per batched token, the values between the matrices of one layer that live at once (in and out of
    the widest two, the residual stream) and, per slot, the logits being sampled.
    """
    widest = max((matrix.outputs for matrix in size.matrices), default=4 * size.hidden)
    passing = _BATCHED_TOKENS * (3 * widest + 3 * size.hidden) * 2
    return int(CONTEXT_BYTES + (0 if eager else _GRAPH_BYTES) + passing + slots * size.vocabulary * _LOGIT_BYTES)
