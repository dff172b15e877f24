"""The engine's replicas, and their GPUs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines.base import ModelSpec
from axolotl_safety.util.errors import ConfigError

from .gpus import Gpu, read_gpus
from .vllm_settings import read_needs, tensor_parallel_size

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """Where the replicas run.

    Attributes:
        devices: per replica, its GPUs as ``CUDA_VISIBLE_DEVICES`` names them; empty on a CPU.
        threads: CPU threads of a replica; None leaves the choice to its libraries.
        tensor_parallel_size: GPUs that hold one copy of the models together.
        idle: visible GPUs that no replica uses.
    """

    devices: tuple[tuple[str, ...], ...]
    replicas: int
    threads: int | None
    tensor_parallel_size: int
    idle: tuple[str, ...] = ()


def place(replicas: Literal["auto"] | int, gpus: Sequence[str], group: int, cores: int) -> Placement:
    """Deals GPUs by name, ``group`` to a replica, or on a CPU its cores; ``auto`` is one per group, or one on a CPU.

    Raises:
        ConfigError: there are fewer GPUs than asked for.
    """
    if not gpus:
        count = 1 if replicas == "auto" else replicas
        return Placement((), count, max(1, cores // count) if count > 1 else None, group)
    count = len(gpus) // group if replicas == "auto" else replicas
    if count < 1 or count * group > len(gpus):
        raise ConfigError(
            f"safety.engine: replicas {replicas} with tensor_parallel_size {group} needs {max(1, count) * group} GPUs, "
            f"and {len(gpus)} are visible ({', '.join(gpus)}). Lower one of the two, or see CUDA_VISIBLE_DEVICES."
        )
    devices = tuple(tuple(gpus[start : start + group]) for start in range(0, count * group, group))
    idle = tuple(gpus[count * group :])
    if idle:
        LOG.warning(
            "engine: %d replica(s) of %d GPU(s) leave GPU %s idle; see safety.engine.replicas and tensor_parallel_size",
            *(count, group, ", ".join(idle)),
        )
    return Placement(devices, count, None, group, idle)


def plan_placement(
    engine: EngineConfig,
    backend: str,
    models: Mapping[str, ModelSpec],
    gpus: Callable[[], Sequence[Gpu]] = read_gpus,
) -> Placement:
    """Where the replicas of a local engine run.

    Only vLLM spreads a model over several GPUs, and only where ``tensor_parallel_size`` is unset are the models
    measured for it.

    Raises:
        ConfigError: the models do not fit, or there are fewer GPUs than asked for.
    """
    cards = gpus()
    group = engine.tensor_parallel_size or 1
    if backend == "vllm" and engine.tensor_parallel_size is None and len(cards) > 1:
        smallest = min(card.total_bytes for card in cards)
        group = tensor_parallel_size(engine, read_needs(models, on_cpu=False), smallest, len(cards))
    return place(engine.replicas, [card.name for card in cards], group, _cores())


def _cores() -> int:
    """CPU cores for all replicas together; what ``OMP_NUM_THREADS`` says is a limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdigit() and int(limit) > 0 else cores
