"""transformers and vLLM in child processes of ours, as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines.base import Backend, Engine, ModelSpec
from axolotl_safety.engines.choose import NEWEST, OLDEST, look_at
from axolotl_safety.engines.gpu.gpus import Gpu, read_gpus
from axolotl_safety.engines.gpu.placement import plan_placement
from axolotl_safety.engines.gpu.vllm_settings import max_num_seqs, read_needs, worker_options
from axolotl_safety.util.errors import ConfigError
from axolotl_safety.util.releases import vllm_beside

from .engine import WorkerEngine

_RANGE = f"vLLM {OLDEST[0]}.{OLDEST[1]} or newer (tried up to {NEWEST[0]}.{NEWEST[1]})"
_SECOND_ENVIRONMENT = (
    "any other goes into an environment of its own (python -m venv /opt/vllm && /opt/vllm/bin/pip install vllm) that "
    "engine.python names: /opt/vllm/bin/python. backend: transformers needs neither"
)


def _transformers(engine: EngineConfig, ask: Any, has_gpu: Any) -> str:
    found = look_at(engine, ask)
    if not found.transformers:
        raise ConfigError(
            f"safety.engine.backend: transformers cannot be imported by {found.python}; install it there."
        )
    if engine.quantization == "fp8":
        raise ConfigError(
            "safety.engine.quantization: fp8 needs vLLM, and the engine is transformers. Use bitsandbytes."
        )
    return "transformers"


def _vllm(engine: EngineConfig, ask: Any, has_gpu: Any) -> str:
    found = look_at(engine, ask)
    if not found.vllm_fits:
        seen = f"has vLLM {found.vllm or 'of an unknown version'}" if found.vllm is not None else "has no vLLM"
        raise ConfigError(
            f"safety.engine.backend: vllm: {found.python} {seen}; wanted is {_RANGE}. {vllm_beside()}; "
            f"{_SECOND_ENVIRONMENT}."
        )
    return "vllm"


def start(engine: EngineConfig, backend: str, work_dir: Path, models: Mapping[str, ModelSpec], *_: Any) -> Engine:
    """Replicas on this machine's GPUs, or on its cores.

    Raises:
        ConfigError: the models do not fit the GPUs, or there are fewer GPUs than asked for.
    """
    placement = plan_placement(engine, backend, models)
    used = {name for replica in placement.devices for name in replica}
    cards = [card for card in read_gpus() if card.name in used]
    return WorkerEngine(
        backend,
        work_dir,
        models,
        **worker_sizes(engine, backend, models, cards, placement.tensor_parallel_size),
        stall_seconds=engine.stall_seconds,
        python=engine.python,
        replicas=placement.replicas,
        devices=placement.devices,
        threads=placement.threads,
    )


def worker_sizes(
    engine: EngineConfig, backend: str, models: Mapping[str, ModelSpec], cards: Sequence[Gpu], group: int
) -> dict[str, Any]:
    """How much a worker does at once, and what vLLM is told about memory."""
    if backend != "vllm":
        return {"batch_size": engine.batch_size}
    options = worker_options(engine, read_needs(models, on_cpu=not cards), cards, group)
    return {"batch_size": max_num_seqs(engine), "options": options}


TRANSFORMERS = Backend("transformers", start, _transformers, local=True, any_temperature=True, adapters=True)
# Its prompt_logprobs are those of temperature 1, in the worker as in a server.
VLLM = Backend("vllm", start, _vllm, local=True, paged=True)
