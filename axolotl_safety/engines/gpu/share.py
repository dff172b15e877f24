"""Shares of a card's memory for the models of one engine: beside each other, or one at a time. Arithmetic alone.

vLLM takes a fixed share of the card for each model at its start: weights, what one step needs, and the rest for keys
and values. Two models that start with its default share do not fit one card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from axolotl_safety.util.errors import ConfigError

# CUDA context, kernels' workspaces and one step's activations of a model of a few billion parameters; not measured.
_STEP_BYTES = 2 << 30
# CUDA graphs come on top of the share that vLLM is told; not measured.
_OUTSIDE_BYTES = 512 << 20
_WEIGHT_SLACK = 1.05
_GUARD_SEQUENCES = 4  # of full length, that a guard beside the target may hold
_TARGET_SEQUENCES = 8  # below this the target is better off alone
_CPU_LEAST, _CPU_MOST = 256 << 20, 2 << 30


@dataclass(frozen=True)
class Need:
    """What a model takes.

    Attributes:
        heads: attention heads; a tensor-parallel group divides them evenly.
        longest: tokens of the longest sequence that will be asked.
    """

    weight_bytes: int
    kv_bytes_per_token: int
    vocabulary: int
    heads: int
    longest: int

    @property
    def sequence_bytes(self) -> int:
        """Keys and values of one sequence of full length."""
        return self.longest * self.kv_bytes_per_token

    def floor_bytes(self, sequences: int, group: int) -> int:
        """Per card, without any keys and values. Sampling holds a row's logits in float32 about three times."""
        logits = 3 * 4 * self.vocabulary * sequences
        return int(self.weight_bytes * _WEIGHT_SLACK / group) + _STEP_BYTES + logits


@dataclass(frozen=True)
class Share:
    """A model's part of each card. ``alone``: it is loaded only while no other is."""

    gpu_bytes: int
    alone: bool


def divide(
    needs: Mapping[str, Need], total: int, free: int, utilization: float, sequences: int, group: int = 1
) -> dict[str, Share]:
    """Divides each card of a replica among the models; the first one is the target and gets what the others leave.

    Args:
        needs: by model name.
        total: memory of the smallest card in bytes.
        free: of it, what nobody holds now; the training's own processes may hold some.
        utilization: share of the card for all models together.
        sequences: completions decoded at once.
        group: cards that hold one model together (tensor parallel).

    Raises:
        ConfigError: a model does not fit, not even alone.
    """
    target, *guards = needs
    floors = {name: need.floor_bytes(sequences, group) for name, need in needs.items()}
    cache = {name: need.sequence_bytes // group for name, need in needs.items()}
    budget = int(min(utilization * total, free - _OUTSIDE_BYTES * len(needs)))
    shares = {name: floors[name] + _GUARD_SEQUENCES * cache[name] for name in guards}
    rest = budget - sum(shares.values())
    if rest >= floors[target] + _TARGET_SEQUENCES * cache[target]:
        return {target: Share(rest, False)} | {name: Share(size, False) for name, size in shares.items()}
    budget = int(min(utilization * total, free - _OUTSIDE_BYTES))
    for name, need in needs.items():
        if budget < floors[name] + cache[name]:
            raise ConfigError(_no_fit(name, need, floors[name], cache[name], budget, total, free, group))
    return {name: Share(budget, len(needs) > 1) for name in needs}


def group_sizes(needs: Mapping[str, Need], cards: int) -> list[int]:
    """How many cards may hold one copy of the models: the powers of two that divide every model's attention heads."""
    heads = math.gcd(*(need.heads for need in needs.values()))
    sizes = [1]
    while sizes[-1] * 2 <= cards and heads % (sizes[-1] * 2) == 0:
        sizes.append(sizes[-1] * 2)
    return sizes


def group_size(needs: Mapping[str, Need], total: int, utilization: float, sequences: int, cards: int) -> int:
    """The fewest cards that hold one copy of the models with room for several of the target's longest sequences.

    A copy that just fits decodes one sequence at a time, and then one copy over two cards is faster than two copies.
    Arguments are those of `divide`, and how many cards there are.

    Returns:
        One of `group_sizes`; the largest where none leaves that room.

    Raises:
        ConfigError: a model does not fit, not even on all cards.
    """
    target = next(iter(needs))
    sizes = group_sizes(needs, cards)
    for size in sizes:
        try:
            given = divide(needs, total, total, utilization, sequences, size)[target].gpu_bytes
        except ConfigError as error:
            if size == sizes[-1]:
                raise ConfigError(
                    f"{error} Of {cards} GPU(s), a group takes a power of two that divides the attention heads "
                    f"({', '.join(f'{name}: {need.heads}' for name, need in needs.items())})."
                ) from None
            continue
        cache = _TARGET_SEQUENCES * needs[target].sequence_bytes // size
        if given >= needs[target].floor_bytes(sequences, size) + cache:
            return size
    return sizes[-1]


def _no_fit(name: str, need: Need, floor: int, cache: int, budget: int, total: int, free: int, group: int) -> str:
    return (
        f"safety.engine: {name} needs {floor / 1e9:.1f} GB on each of {group} GPU(s) for weights and one step, and "
        f"{cache / 1e9:.1f} GB for one sequence of {need.longest} tokens; the engine may use {budget / 1e9:.1f} GB "
        f"(card {total / 1e9:.1f} GB, free now {free / 1e9:.1f} GB). Set engine.quantization, lower sequence_len or "
        "engine.max_model_len, raise engine.gpu_memory_utilization, or use tensor_parallel_size over more GPUs."
    )


def cpu_cache_bytes(need: Need) -> int:
    """Keys and values on a CPU: eight sequences of full length within bounds, and always one."""
    return max(need.sequence_bytes, min(max(_TARGET_SEQUENCES * need.sequence_bytes, _CPU_LEAST), _CPU_MOST))
