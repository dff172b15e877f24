"""How many lanes the engine has, and on which GPUs."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..config import EngineConfig
from ..errors import ConfigError
from .base import ModelSpec
from .gpus import Gpu, read_gpus

LOG = logging.getLogger(__name__)
# Of the memory that an engine may use; the rest is for keys, values and activations.
_WEIGHTS_SHARE = 0.8


@dataclass(frozen=True)
class ModelNeed:
    """What decides over how many GPUs a model goes.

    Attributes:
        weight_bytes: of all its weights.
        heads: attention heads; a tensor-parallel group must divide them evenly.
    """

    weight_bytes: int
    heads: int


@dataclass(frozen=True)
class Placement:
    """Where the lanes run.

    Attributes:
        devices: per lane, its GPUs as ``CUDA_VISIBLE_DEVICES`` names them; empty on a CPU.
        replicas: lanes.
        threads: CPU threads of a lane; None leaves the choice to its libraries.
        tensor_parallel_size: GPUs that hold one copy of the models together.
        idle: visible GPUs that no lane uses.
    """

    devices: tuple[tuple[str, ...], ...]
    replicas: int
    threads: int | None
    tensor_parallel_size: int
    idle: tuple[str, ...] = ()


def tensor_parallel_size(needs: Iterable[ModelNeed], card_bytes: int, utilization: float, gpus: int) -> int:
    """The smallest power of two of GPUs that hold all models of an engine together.

    Weights may take four fifths of what the engine may use of a card; keys, values and activations need the rest.

    Args:
        needs: the models that share the cards.
        card_bytes: memory of the smallest card.
        utilization: the share of a card that the engine may use.
        gpus: how many cards there are.

    Raises:
        ConfigError: they do not fit, not even on all cards.
    """
    models = list(needs)
    weights = sum(model.weight_bytes for model in models)
    heads = math.gcd(*(model.heads for model in models))
    room = card_bytes * utilization * _WEIGHTS_SHARE
    size = 1
    while size <= gpus and (heads % size == 0 or size == 1):
        if weights / size <= room:
            return size
        size *= 2
    raise ConfigError(
        f"safety.engine: the models' weights take {weights / 1e9:.1f} GB, and {gpus} GPU(s) of {card_bytes / 1e9:.1f} "
        f"GB at gpu_memory_utilization {utilization} hold at most {size // 2} x {room / 1e9:.1f} GB of weights (a "
        f"group is a power of two that divides the {heads} attention heads). Set engine.quantization, use more or "
        "larger GPUs, or set tensor_parallel_size to try it anyway."
    )


def place(replicas: Literal["auto"] | int, gpus: Sequence[str], group: int, cores: int) -> Placement:
    """Deals GPUs to lanes; on a CPU, cores.

    Args:
        replicas: lanes asked for; auto is one per group of GPUs, or one on a CPU.
        gpus: names of the visible GPUs.
        group: GPUs per lane (tensor parallel).
        cores: CPU cores that this process may use.

    Raises:
        ConfigError: there are fewer GPUs than asked for.
    """
    if not gpus:
        lanes = 1 if replicas == "auto" else replicas
        return Placement((), lanes, max(1, cores // lanes) if lanes > 1 else None, group)
    lanes = len(gpus) // group if replicas == "auto" else replicas
    if lanes < 1 or lanes * group > len(gpus):
        raise ConfigError(
            f"safety.engine: replicas {replicas} with tensor_parallel_size {group} needs {max(1, lanes) * group} GPUs, "
            f"and {len(gpus)} are visible ({', '.join(gpus)}). Lower one of the two, or see CUDA_VISIBLE_DEVICES."
        )
    devices = tuple(tuple(gpus[start : start + group]) for start in range(0, lanes * group, group))
    idle = tuple(gpus[lanes * group :])
    if idle:
        LOG.warning(
            "engine: %d lane(s) of %d GPU(s) leave GPU %s idle; see safety.engine.replicas and tensor_parallel_size",
            *(lanes, group, ", ".join(idle)),
        )
    return Placement(devices, lanes, None, group, idle)


def plan_placement(
    engine: EngineConfig,
    backend: str,
    models: Mapping[str, ModelSpec],
    gpus: Callable[[], Sequence[Gpu]] = read_gpus,
) -> Placement:
    """Where the lanes of a local engine run.

    Only vLLM spreads a model over several GPUs, and only where ``tensor_parallel_size`` is unset are the models
    measured for it.

    Raises:
        ConfigError: the models do not fit, or there are fewer GPUs than asked for.
    """
    cards = gpus()
    group = engine.tensor_parallel_size or 1
    if backend == "vllm" and engine.tensor_parallel_size is None and len(cards) > 1:
        smallest = min(card.total_bytes for card in cards)
        group = tensor_parallel_size(model_needs(models), smallest, engine.gpu_memory_utilization, len(cards))
    return place(engine.replicas, [card.name for card in cards], group, _cores())


def _cores() -> int:
    """CPU cores for all lanes together; what ``OMP_NUM_THREADS`` says is a limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdigit() and int(limit) > 0 else cores


def model_needs(models: Mapping[str, ModelSpec]) -> list[ModelNeed]:
    """Sizes of the models from their configurations; no weight is read."""
    from transformers import AutoConfig

    from ..sizes import model_size

    needs = []
    for spec in models.values():
        config = AutoConfig.from_pretrained(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
        dtype = spec.dtype if spec.dtype != "auto" else str(config.dtype or "bfloat16").removeprefix("torch.")
        text = config.get_text_config()
        needs.append(ModelNeed(model_size(config).weight_bytes(dtype, spec.quantization), text.num_attention_heads))
    return needs
